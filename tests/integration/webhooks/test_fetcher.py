"""The fetcher against real servers on loopback, which a setting names as allowed."""

import socket
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import trustme

from services.shared.outbound.fetcher import Fetcher, FetchResult, Refused, Unreachable
from tests.integration.webhooks.conftest import StartReceiver, fetcher
from tests.integration.webhooks.receiver import Reply

ENOUGH_SECONDS = 60.0  # for a machine that is busy with other things


async def get(caller: Fetcher, url: str, max_bytes: int = 1000, seconds: float = ENOUGH_SECONDS) -> FetchResult:
    return await caller.fetch("GET", url, seconds=seconds, max_bytes=max_bytes)


async def test_a_request_and_its_response_arrive_unchanged(start_receiver: StartReceiver) -> None:
    receiver = start_receiver(Reply(201, {"X-Here": "yes"}, b"hello"))
    answer = await fetcher().fetch(
        "POST", receiver.url, headers={"x-there": "no"}, body=b"{}", seconds=ENOUGH_SECONDS, max_bytes=1000
    )
    assert (answer.status, answer.body, answer.complete, answer.headers["x-here"]) == (201, b"hello", True, "yes")
    (received,) = receiver.received
    assert (received.method, received.path, received.body) == ("POST", "/hook?x=1", b"{}")
    assert received.headers["x-there"] == "no"
    assert received.headers["host"] == f"127.0.0.1:{receiver.port}"


async def test_the_connection_goes_to_the_address_that_was_checked_and_the_host_keeps_its_name(
    start_receiver: StartReceiver,
) -> None:
    receiver = start_receiver()
    looked_up = []

    def rebinding(host: str, port: int) -> list[str]:
        """Resolves to another address the second time."""
        looked_up.append(host)
        return ["127.0.0.1"] if len(looked_up) == 1 else ["127.0.0.99"]

    answer = await get(fetcher(rebinding), f"http://hooks.example:{receiver.port}/")
    assert answer.status == 204
    assert looked_up == ["hooks.example"]
    assert receiver.received[0].headers["host"] == f"hooks.example:{receiver.port}"


async def test_a_name_that_is_rebound_to_an_internal_address_is_refused(start_receiver: StartReceiver) -> None:
    receiver = start_receiver()
    answers = iter([["93.184.215.14"], ["127.0.0.1"]])
    caller = fetcher(lambda host, port: next(answers), outbound_allowed_networks="")
    url = f"http://hooks.example:{receiver.port}/"
    await caller.check(url, "webhook.url")
    with pytest.raises(Refused, match="not public"):
        await get(caller, url)
    assert receiver.received == []


@pytest.mark.parametrize("allowed", ["", "10.0.0.0/8"])
async def test_loopback_is_not_called_unless_allowed(start_receiver: StartReceiver, allowed: str) -> None:
    receiver = start_receiver()
    with pytest.raises(Refused, match="not public"):
        await get(fetcher(outbound_allowed_networks=allowed), receiver.url)
    assert receiver.received == []


async def test_one_forbidden_address_among_allowed_ones_is_enough_to_refuse(start_receiver: StartReceiver) -> None:
    receiver = start_receiver()
    caller = fetcher(lambda host, port: ["127.0.0.1", "10.0.0.1"])
    with pytest.raises(Refused, match="not public"):
        await get(caller, f"http://hooks.example:{receiver.port}/")
    assert receiver.received == []


async def test_if_an_address_refuses_the_connection_the_next_one_is_called(start_receiver: StartReceiver) -> None:
    receiver = start_receiver()
    caller = fetcher(lambda host, port: ["127.0.0.2", "127.0.0.1"])
    assert (await get(caller, f"http://hooks.example:{receiver.port}/")).status == 204


async def test_a_redirect_is_returned_and_not_followed(start_receiver: StartReceiver) -> None:
    target = start_receiver()
    receiver = start_receiver(Reply(302, {"Location": target.url}))
    answer = await get(fetcher(), receiver.url)
    assert (answer.status, answer.headers["location"]) == (302, target.url)
    assert target.received == []


async def test_no_more_of_a_long_response_is_read_than_requested(start_receiver: StartReceiver) -> None:
    receiver = start_receiver(Reply(200, {}, b"x" * 1_000_000))
    answer = await get(fetcher(), receiver.url, max_bytes=1000)
    assert (answer.body, answer.complete) == (b"x" * 1000, False)


async def test_a_response_of_exactly_the_limit_is_complete(start_receiver: StartReceiver) -> None:
    answer = await get(fetcher(), start_receiver(Reply(200, {}, b"x" * 1000)).url, max_bytes=1000)
    assert (len(answer.body), answer.complete) == (1000, True)


async def test_a_silent_receiver_times_out(start_receiver: StartReceiver) -> None:
    receiver = start_receiver(Reply(silent=True))
    with pytest.raises(Unreachable, match=r"within 0\.5 s"):
        await get(fetcher(), receiver.url, seconds=0.5)


async def test_a_receiver_that_trickles_times_out(dripping_port: int) -> None:
    with pytest.raises(Unreachable, match=r"within 0\.5 s"):
        await get(fetcher(), f"http://127.0.0.1:{dripping_port}/", seconds=0.5)


async def test_a_resolver_that_hangs_times_out() -> None:
    release = threading.Event()

    def hanging(host: str, port: int) -> list[str]:
        release.wait()
        return []

    try:
        with pytest.raises(Unreachable, match=r"within 0\.2 s"):
            await get(fetcher(hanging), "http://hooks.example/", seconds=0.2)
    finally:
        release.set()


async def test_a_refused_connection_is_unreachable() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and never listens
        with pytest.raises(Unreachable, match="connection failed"):
            await get(fetcher(), f"http://127.0.0.1:{taken.getsockname()[1]}/")


async def test_a_name_that_does_not_exist_is_unreachable() -> None:
    with pytest.raises(Unreachable, match=r"'none\.example' is unknown"):
        await get(fetcher(lambda host, port: []), "http://none.example/")


async def test_proxy_environment_variables_are_ignored(
    start_receiver: StartReceiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    receiver, proxy = start_receiver(), start_receiver(Reply(502))
    for name in ("http_proxy", "HTTP_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, proxy.url)
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    assert (await get(fetcher(), receiver.url)).status == 204
    assert proxy.received == []


async def test_tls_uses_the_host_name_and_the_certificate_must_match_it(
    start_receiver: StartReceiver, tmp_path: Path
) -> None:
    authority, server = trustme.CA(), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("hooks.example").configure_cert(server)
    asked_for: list[str | None] = []
    server.sni_callback = lambda connection, name, context: asked_for.append(name)
    receiver = start_receiver(tls=server)
    trusted = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(trusted)
    caller = fetcher(lambda host, port: ["127.0.0.1"], outbound_ca_file=trusted)
    assert (await get(caller, f"https://hooks.example:{receiver.port}/")).status == 204
    assert asked_for == ["hooks.example"]
    with pytest.raises(Unreachable, match="certificate is not valid"):
        await get(caller, f"https://other.example:{receiver.port}/")
    with pytest.raises(Unreachable, match="certificate is not valid"):
        await get(fetcher(lambda host, port: ["127.0.0.1"]), f"https://hooks.example:{receiver.port}/")
    assert len(receiver.received) == 1


async def test_a_certificate_for_an_ip_address_is_accepted_for_its_url(
    start_receiver: StartReceiver, tmp_path: Path
) -> None:
    authority, server = trustme.CA(), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(server)
    trusted = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(trusted)
    receiver = start_receiver(tls=server)
    assert (await get(fetcher(outbound_ca_file=trusted), f"https://127.0.0.1:{receiver.port}/")).status == 204


async def test_a_response_that_is_not_http_is_unreachable(start_receiver: StartReceiver) -> None:
    receiver = start_receiver()
    with pytest.raises(Unreachable, match="the TLS handshake failed"):
        await get(fetcher(), f"https://127.0.0.1:{receiver.port}/")


async def test_ipv6_addresses_are_called_too(start_receiver: StartReceiver) -> None:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("this machine has no IPv6")
    receiver = start_receiver(host="::1")
    assert (await get(fetcher(), f"http://[::1]:{receiver.port}/")).status == 204
    assert receiver.received[0].headers["host"] == f"[::1]:{receiver.port}"


@pytest.fixture
def dripping_port() -> Iterator[int]:
    """A server that sends a header line now and then, without end."""
    closing = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as server:

        def drip() -> None:
            connection, _ = server.accept()
            with connection:
                connection.sendall(b"HTTP/1.1 200 OK\r\n")
                while not closing.wait(0.05):
                    try:
                        connection.sendall(b"X-More: 1\r\n")
                    except OSError:
                        return

        thread = threading.Thread(target=drip)
        thread.start()
        yield server.getsockname()[1]
        closing.set()
        thread.join()
