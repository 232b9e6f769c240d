"""Clients that are slow, idle, greedy or invalid, over real sockets, with limits of fractions of a second."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from services.shared.pipeline.clients import NAMES
from tests.integration.gateway.conftest import Gateway, StartGateway, until
from tests.integration.gateway.raw import RawClient, connected, post
from tests.unit.pipeline.scripted import Script, scripted_services

CHAT = "/v1/chat/completions"
QUESTION: Any = {"model": "lyra-tiny", "messages": [{"role": "user", "content": "Hi"}]}
BODY = json.dumps(QUESTION).encode()
GET = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"


@pytest.fixture
def script() -> Script:
    return Script()


@pytest.fixture
async def addresses(script: Script) -> AsyncIterator[dict[str, str]]:
    async with scripted_services(script) as address:
        yield dict.fromkeys(NAMES, address)


async def metric(gateway: Gateway, name: str) -> float:
    lines = (await gateway.http.get("/metrics")).text.splitlines()
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(name))


def error_of(response: bytes) -> dict[str, Any]:
    error: dict[str, Any] = json.loads(response.partition(b"\r\n\r\n")[2])["error"]
    assert set(error) == {"message", "type", "param", "code"}
    return error


@pytest.mark.parametrize("sent", [b"", b"GET /healthz HTTP/1.1\r\nHost: x\r\nX-"])
async def test_missing_headers_close_the_connection(
    start_gateway: StartGateway, addresses: dict[str, str], sent: bytes
) -> None:
    gateway = await start_gateway(addresses, header_seconds=0.3)
    async with connected(gateway) as client:
        client.send(sent)
        response = await client.rest()
    if sent:
        assert response.startswith(b"HTTP/1.1 408 ")
        assert "0.3 s" in error_of(response)["message"]
    else:
        assert response == b""


async def test_trickled_headers_do_not_extend_their_deadline(
    start_gateway: StartGateway, addresses: dict[str, str]
) -> None:
    gateway = await start_gateway(addresses, header_seconds=0.3)
    async with connected(gateway) as client:
        client.send(GET)
        assert await client.status() == 200  # the rest is the second request on a connection

        async def trickle() -> None:
            for letter in GET[:-2] + b"x-more: " + b"y" * 10_000:
                client.send(bytes([letter]))
                await asyncio.sleep(0.01)

        trickling = asyncio.create_task(trickle())
        response = await client.rest()
        trickling.cancel()
    assert response.startswith(b"HTTP/1.1 408 ")


async def test_a_connection_that_is_idle_is_closed(start_gateway: StartGateway, addresses: dict[str, str]) -> None:
    gateway = await start_gateway(addresses, idle_seconds=0.3)
    async with connected(gateway) as client:
        client.send(GET)
        assert await client.status() == 200
        assert await client.rest() == b""


async def test_a_new_connection_replaces_the_longest_idle_one(
    start_gateway: StartGateway, addresses: dict[str, str]
) -> None:
    gateway = await start_gateway(addresses, max_idle_connections=20)
    async with contextlib.AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(connected(gateway)) for _ in range(60)]
        assert await clients[0].rest() == b""
        clients[-1].send(GET)
        assert await clients[-1].status() == 200
        assert await metric(gateway, "lyra_connections_open") <= 21
        assert await metric(gateway, 'lyra_connections_cut_total{reason="idle"}') >= 40


async def running(gateway: Gateway, count: int, stack: contextlib.AsyncExitStack) -> list[RawClient]:
    """Connections with one request each, which the script blocks."""
    clients = [await stack.enter_async_context(connected(gateway)) for _ in range(count)]
    for client in clients:
        client.send(post(gateway, CHAT, len(BODY)), BODY)

    async def all_run() -> bool:
        return await gateway.running() == count

    await until(all_run)
    return clients


@pytest.mark.parametrize(("limit", "status"), [("max_connections", 503), ("max_connections_per_address", 429)])
async def test_a_connection_over_the_limit_gets_a_retry_after(
    start_gateway: StartGateway, addresses: dict[str, str], script: Script, limit: str, status: int
) -> None:
    gateway = await start_gateway(addresses, **{limit: 4})
    script.before_finish.clear()
    async with contextlib.AsyncExitStack() as stack:
        await gateway.http.get("/healthz")  # the fourth connection, which then asks for the metrics
        clients = await running(gateway, 3, stack)
        if limit == "max_connections":  # it would be idle, and be replaced
            held = await stack.enter_async_context(gateway.http.stream("POST", CHAT, json={**QUESTION, "stream": True}))
            await anext(held.aiter_lines())
        refused = await stack.enter_async_context(connected(gateway))
        refused.send(GET)
        response = await refused.rest()
        assert response.startswith(b"HTTP/1.1 %d " % status)
        assert b"\r\nretry-after: 5\r\n" in response
        assert error_of(response)["code"] == "overloaded"
        script.before_finish.set()
        assert [await client.status() for client in clients] == [200] * 3


async def test_slow_bodies_take_no_running_slots(start_gateway: StartGateway, addresses: dict[str, str]) -> None:
    gateway = await start_gateway(addresses, max_running=2, body_grace_seconds=0.5)
    async with contextlib.AsyncExitStack() as stack:
        slow = [await stack.enter_async_context(connected(gateway)) for _ in range(20)]
        for client in slow:
            client.send(post(gateway, CHAT, 1000), b"{")
        assert (await gateway.http.post(CHAT, json=QUESTION)).status_code == 200
        assert [await client.status() for client in slow] == [408] * 20


async def test_one_tenant_leaves_slots_to_others(
    start_gateway: StartGateway, addresses: dict[str, str], script: Script
) -> None:
    gateway = await start_gateway(addresses, max_running=4)
    script.before_finish.clear()
    _, other = gateway.keys.create("globex")
    async with contextlib.AsyncExitStack() as stack:
        clients = await running(gateway, 3, stack)
        refused = await gateway.http.post(CHAT, json=QUESTION)
        assert (refused.status_code, refused.headers["retry-after"]) == (429, "1")
        assert "3 of yours" in refused.json()["error"]["message"]
        welcome = await stack.enter_async_context(connected(gateway))
        welcome.send(post(gateway, CHAT, len(BODY), secret=other), BODY)

        async def four_run() -> bool:
            return await gateway.running() == 4

        await until(four_run)
        script.before_finish.set()
        assert [await client.status() for client in (*clients, welcome)] == [200] * 4


@pytest.mark.parametrize("tenants", [1, 2])
async def test_uploads_of_one_tenant_leave_slots_to_others(
    start_gateway: StartGateway, addresses: dict[str, str], tenants: int
) -> None:
    gateway = await start_gateway(addresses, max_uploads=4, body_grace_seconds=5)
    _, other = gateway.keys.create("globex")
    form = b'--b\r\nContent-Disposition: form-data; name="file"; filename="a.wav"\r\n\r\nRIFF'
    kind = "Content-Type: multipart/form-data; boundary=b"

    def head(secret: str) -> bytes:
        return post(gateway, "/v1/media", 1000, secret=secret).replace(b"Content-Type: application/json", kind.encode())

    async with contextlib.AsyncExitStack() as stack:
        for _ in range(3):
            client = await stack.enter_async_context(connected(gateway))
            client.send(head(gateway.secret), form)

        async def three_run() -> bool:
            return await gateway.running() == 3

        await until(three_run)
        late = await stack.enter_async_context(connected(gateway))
        late.send(head(gateway.secret if tenants == 1 else other), form)
        if tenants == 1:
            assert await late.status() == 429
            return

        async def four_run() -> bool:
            return await gateway.running() == 4

        await until(four_run)


async def test_a_stalled_reader_is_disconnected_and_its_answer_cancelled(
    start_gateway: StartGateway, addresses: dict[str, str], script: Script
) -> None:
    gateway = await start_gateway(addresses, write_seconds=0.5)
    script.words = ["word " * 40_000] * 200
    body = json.dumps({**QUESTION, "stream": True}).encode()
    async with connected(gateway) as client:
        client.writer.transport.pause_reading()  # type: ignore[attr-defined]
        client.send(post(gateway, CHAT, len(body)), body)
        await script.wait_ended("generate")

        async def nothing_runs() -> bool:
            return await gateway.running() == 0

        await until(nothing_runs)
        assert await metric(gateway, 'lyra_connections_cut_total{reason="reader"}') >= 1


async def test_a_slow_but_steady_reader_gets_the_whole_response(
    start_gateway: StartGateway, addresses: dict[str, str], script: Script
) -> None:
    gateway = await start_gateway(addresses, write_seconds=0.5)
    script.words = ["word " * 40_000] * 40
    body = json.dumps({**QUESTION, "stream": True}).encode()
    async with connected(gateway) as client:
        client.send(post(gateway, CHAT, len(body)), body)
        received = 0
        while piece := await client.reader.read(2**17):
            received += len(piece)
            await asyncio.sleep(0.01)
            if piece.endswith(b"0\r\n\r\n"):
                break
    assert received > 8_000_000


async def test_the_rest_of_a_rejected_body_is_not_awaited(
    start_gateway: StartGateway, addresses: dict[str, str]
) -> None:
    gateway = await start_gateway(addresses, header_seconds=0.3)
    async with connected(gateway) as client:
        client.send(GET.replace(b"\r\n\r\n", b"\r\nContent-Length: 1000000\r\n\r\n"), b"x")
        assert b"200" in await client.rest()


LONG = b"x" * 20_000
RUDE: dict[str, tuple[bytes, int]] = {
    "not HTTP": (b"\x16\x03\x01\x02\x00\x01\x00", 400),
    "a bad header": (b"GET / HTTP/1.1\r\nHost: x\r\nbad header\r\n\r\n", 400),
    "a long address at once": (b"GET /" + LONG + b" HTTP/1.1\r\nHost: x\r\n\r\n", 414),
    "a longish address": (b"GET /" + LONG[:9000] + b" HTTP/1.1\r\nHost: x\r\n\r\n", 414),
    "an endless address": (b"GET /" + LONG * 20, 414),
    "a long header": (b"GET / HTTP/1.1\r\nHost: x\r\nX-A: " + LONG * 20 + b"\r\n\r\n", 431),
    "many headers": (b"GET /healthz HTTP/1.1\r\nHost: x\r\n" + b"A: b\r\n" * 1000 + b"\r\n", 431),
    "very many headers": (b"GET /healthz HTTP/1.1\r\nHost: x\r\n" + b"A: b\r\n" * 50_000 + b"\r\n", 431),
    "two lengths": (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab", 400),
    "length and chunks": (
        b"POST /v1/jobs HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + GET,
        400,
    ),
    "chunks in HTTP/1.0": (b"POST /v1/jobs HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
    "an unknown transfer encoding": (b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", 501),
    "no host": (b"GET / HTTP/1.1\r\n\r\n", 400),
}


@pytest.mark.parametrize("case", RUDE)
async def test_an_invalid_request_gets_one_response_and_is_disconnected(
    start_gateway: StartGateway, addresses: dict[str, str], case: str
) -> None:
    gateway = await start_gateway(addresses, header_seconds=5)
    sent, status = RUDE[case]
    async with connected(gateway) as client:
        client.send(sent)
        response = await client.rest()
    assert response.startswith(b"HTTP/1.1 %d " % status), response[:200]
    assert b"\r\nconnection: close\r\n" in response.lower()
    assert response.count(b"HTTP/1.1 ") == 1
    error_of(response)


@pytest.mark.parametrize(
    "body",
    [
        b"1\r\n \r\n" * 5_000,
        (b"1;" + LONG[:15_000] + b"\r\n \r\n") * 300,
        b"Z\r\n",
        b"ffffffffffffffffffffff\r\n",
    ],
    ids=["tiny chunks", "chunk extensions", "no length", "a huge length"],
)
async def test_chunks_with_excessive_overhead_are_refused(
    start_gateway: StartGateway, addresses: dict[str, str], body: bytes
) -> None:
    gateway = await start_gateway(addresses)
    async with connected(gateway) as client:
        client.send(post(gateway, CHAT, None, "Transfer-Encoding: chunked"), body)
        response = await client.rest()
    assert response.startswith(b"HTTP/1.1 400 "), response[:200]
    error_of(response)
    assert (await gateway.http.post(CHAT, json=QUESTION)).status_code == 200


async def test_pipelined_requests_and_expect_continue_are_answered(
    start_gateway: StartGateway, addresses: dict[str, str]
) -> None:
    gateway = await start_gateway(addresses)
    async with connected(gateway) as client:
        client.send(GET * 3)
        assert [await client.status() for _ in range(3)] == [200] * 3
        client.send(post(gateway, CHAT, len(BODY), "Expect: 100-continue"))
        assert await client.status() == 100
        client.send(BODY)
        assert await client.status() == 200
        client.send(post(gateway, CHAT, 10**9, "Expect: 100-continue"))
        assert await client.status() == 413
    async with connected(gateway) as client:
        client.send(b"GET /healthz HTTP/1.0\r\n\r\n")
        assert (await client.rest()).startswith(b"HTTP/1.1 200 ")
