import pytest
import structlog
from starlette.types import Message, Receive, Scope, Send

from services.gateway.http.client_addresses import (
    ClientAddressMiddleware,
    client_address,
    rate_limited_address,
    trusted_networks,
)


async def seen(trusted: str, peer: str | None, *forwarded: str) -> str:
    """The address that the application sees."""
    address = ""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        nonlocal address
        address = client_address(scope)

    async def receive() -> Message:
        raise AssertionError

    async def send(message: Message) -> None:
        raise AssertionError

    headers = [(b"x-forwarded-for", each.encode()) for each in forwarded]
    scope: Scope = {"type": "http", "client": (peer, 5000) if peer else None, "headers": headers}
    await ClientAddressMiddleware(app, trusted_networks(trusted))(scope, receive, send)
    return address


@pytest.mark.parametrize(
    ("trusted", "peer", "forwarded", "address"),
    [
        ("", "10.0.0.1", (), "10.0.0.1"),
        ("", "10.0.0.1", ("192.0.2.1",), "10.0.0.1"),  # no trusted proxies
        ("10.0.0.0/8", "192.0.2.9", ("192.0.2.1",), "192.0.2.9"),  # not this one
        ("10.0.0.0/8", "10.0.0.1", ("192.0.2.1",), "192.0.2.1"),
        ("10.0.0.0/8", "10.0.0.1", ("203.0.113.5, 192.0.2.1",), "192.0.2.1"),  # the client wrote the first itself
        ("10.0.0.0/8", "10.0.0.1", ("203.0.113.5", "192.0.2.1"), "192.0.2.1"),  # ... in a header of its own
        ("10.0.0.0/8", "10.0.0.1", ("203.0.113.5, 192.0.2.1, 10.0.0.2",), "192.0.2.1"),  # two proxies
        ("10.0.0.0/8,172.16.0.1", "172.16.0.1", ("192.0.2.1, 10.0.0.2",), "192.0.2.1"),
        ("10.0.0.0/8", "10.0.0.1", ("192.0.2.1:4711",), "192.0.2.1"),
        ("10.0.0.0/8", "10.0.0.1", ("[2001:db8::1]:4711",), "2001:db8::1"),
        ("fd00::/8", "fd00::1", ("2001:DB8:0::1",), "2001:db8::1"),
        ("10.0.0.0/8", "::ffff:10.0.0.1", ("::ffff:192.0.2.1, ::ffff:10.0.0.2",), "192.0.2.1"),
        ("", "::ffff:192.0.2.1", (), "192.0.2.1"),
        ("", "fe80::1%eth0", (), "fe80::1"),
        ("10.0.0.0/8", "10.0.0.1", ("unknown",), "10.0.0.1"),
        ("10.0.0.0/8", "10.0.0.1", ("\nrequest ended key=key_of_another",), "10.0.0.1"),
        ("10.0.0.0/8", "10.0.0.1", ("",), "10.0.0.1"),
        ("10.0.0.0/8", None, ("192.0.2.1",), "-"),
    ],
)
async def test_the_address_is_that_of_the_connection_or_given_by_a_trusted_proxy(
    trusted: str, peer: str | None, forwarded: tuple[str, ...], address: str
) -> None:
    assert await seen(trusted, peer, *forwarded) == address


@pytest.mark.parametrize(
    ("address", "counted"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::", "2001:db8:1:2::/64"),
        ("2001:db8:1:3::", "2001:db8:1:3::/64"),
        ("-", "-"),
    ],
)
def test_an_ipv6_network_counts_as_one_address(address: str, counted: str) -> None:
    assert rate_limited_address(address) == counted


async def test_an_unknown_proxy_is_logged_once() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        return

    forwarded = [(b"x-forwarded-for", b"192.0.2.1")]
    middleware = ClientAddressMiddleware(app, trusted_networks("10.0.0.1"))
    with structlog.testing.capture_logs() as log:
        for peer, headers in (
            ("10.0.0.1", forwarded),
            ("10.0.0.2", []),
            ("10.0.0.2", forwarded),
            ("10.0.0.3", forwarded),
        ):
            scope = {"type": "http", "client": (peer, 5000), "headers": headers}
            await middleware(scope, None, None)  # type: ignore[arg-type]
    assert [(each["log_level"], each["address"]) for each in log] == [("warning", "10.0.0.2")]
    assert "LYRA_TRUSTED_PROXIES" in log[0]["event"]
