"""Which URLs may be called, before anything is sent. Names are resolved by a table in the test."""

import socket
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.shared.outbound.fetcher import Fetcher
from services.shared.outbound.settings import OutboundSettings
from services.shared.service_errors import InvalidInput

BOOK = {
    "hooks.example": ["93.184.215.14", "2606:2800:21f:cb07::1"],
    "inside.example": ["10.0.0.7"],
    "both.example": ["93.184.215.14", "127.0.0.1"],
    "xn--bcher-kva.example": ["93.184.215.14"],
    "none.example": [],
}


def look_up(host: str, port: int) -> list[str]:
    if host == "asleep.example":
        raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
    return BOOK.get(host, [])


def fetcher(**settings: Any) -> Fetcher:
    return Fetcher(OutboundSettings(outbound_allowed_networks="", **settings), look_up)


@pytest.mark.parametrize(
    "url",
    [
        "https://hooks.example",
        "https://hooks.example/a/b?c=d",
        "https://hooks.example:8443/",
        "HTTPS://HOOKS.EXAMPLE/",
        "https://bücher.example/",
        "https://asleep.example/",  # a temporary failure of the resolver is not the client's mistake
    ],
)
async def test_a_public_url_is_accepted(url: str) -> None:
    await fetcher().check(url, "webhook.url")


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("http://hooks.example/", "https://"),
        ("ftp://hooks.example/", "https://"),
        ("file:///etc/passwd", "https://"),
        ("//hooks.example/", "https://"),
        ("hooks.example", "https://"),
        ("", "https://"),
        ("https://", "has no host"),
        ("https://./", "has no host"),
        ("https://user:word@hooks.example/", "user name"),
        ("https://hooks.example\\@inside.example/", "not public|not a URL|user name"),
        ("https://hooks.example:25/", "port 25"),
        ("https://hooks.example:0/", "port 0"),
        ("https://hooks.example:65536/", "port 65536"),
        ("https://hooks.example:-1/", "port -1"),
        ("https://hooks.example/\n", "not a URL"),
        ("https://[::1/", "not a URL"),
        ("https://none.example/", "is unknown"),
        ("https://inside.example/", "not public"),
        ("https://both.example/", "not public"),
        ("https://hooks.example/" + "a" * 2048, "limit of 2048"),
    ],
)
async def test_a_forbidden_url_is_refused_with_the_reason(url: str, reason: str) -> None:
    with pytest.raises(InvalidInput, match=reason) as refused:
        await fetcher().check(url, "webhook.url")
    assert refused.value.field == "webhook.url"
    assert "10.0.0.7" not in refused.value.message


async def test_an_internal_name_is_refused_with_the_message_of_an_unknown_one() -> None:
    words = []
    for host in ("inside.example", "none.example"):
        with pytest.raises(InvalidInput) as refused:
            await fetcher().check(f"https://{host}/", "webhook.url")
        words.append(refused.value.message.replace(host, "HOST"))
    assert words[0] == words[1]


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1", "[::1]", "[::ffff:127.0.0.1]", "2130706433", "0x7f.1", "127.1", "0177.0.0.1", "169.254.169.254"],
)
async def test_every_notation_of_an_internal_address_is_refused(host: str) -> None:
    with pytest.raises(InvalidInput, match=r"not public|not a URL"):
        await Fetcher(OutboundSettings(outbound_allowed_networks="")).check(f"https://{host}/", "webhook.url")


async def test_plain_http_is_accepted_if_the_setting_allows_it() -> None:
    await fetcher(outbound_allow_http=True).check("http://hooks.example/", "webhook.url")


@given(st.one_of(st.text(), st.text().map("https://{}".format)))
async def test_any_text_is_accepted_or_refused(url: str) -> None:
    with pytest.raises(InvalidInput):
        await Fetcher(OutboundSettings(outbound_allowed_networks=""), lambda host, port: []).check(url, "webhook.url")
