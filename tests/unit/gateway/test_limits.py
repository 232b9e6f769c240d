import asyncio
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
from starlette.responses import Response

from services.gateway.http.api_errors import ApiError
from services.gateway.http.concurrency import TenantSemaphore, tenant_share
from services.gateway.http.limits import BodyTimeouts, DrainRefusedBodies, HeaderLimits, RequestLimits


class Client:
    """One request: what it sends, and what it received."""

    def __init__(self, *pieces: bytes, headers: dict[str, str] | None = None, tenant: str = "acme") -> None:
        self.pieces = list(pieces)
        self.sent: list[Any] = []
        raw = [(key.encode(), value.encode()) for key, value in (headers or {"transfer-encoding": "chunked"}).items()]
        self.scope: dict[str, Any] = {"type": "http", "method": "POST", "path": "/", "headers": raw}
        self.scope["state"] = {"key": SimpleNamespace(tenant=tenant)}

    async def receive(self) -> dict[str, Any]:
        if not self.pieces:
            await asyncio.Event().wait()
        body = self.pieces.pop(0)
        return {"type": "http.request", "body": body, "more_body": bool(self.pieces)}

    async def send(self, message: Any) -> None:
        self.sent.append(message)

    @property
    def status(self) -> int:
        return int(self.sent[0]["status"])


class Application:
    """Reads the body, then waits until it may continue."""

    def __init__(self) -> None:
        self.go_on = asyncio.Event()
        self.read = asyncio.Event()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        try:
            while (await receive())["more_body"]:
                pass
        except ApiError as error:
            return await error.response()(scope, receive, send)
        self.read.set()
        await self.go_on.wait()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})


TIMEOUTS = BodyTimeouts(total_seconds=5.0, idle_seconds=5.0, grace_seconds=5.0, min_bytes_per_second=1.0)


def limits(
    app: Any,
    timeouts: BodyTimeouts = TIMEOUTS,
    running: TenantSemaphore | None = None,
    arriving: TenantSemaphore | None = None,
) -> RequestLimits:
    return RequestLimits(
        app,
        max_body_bytes=10,
        max_plain_bytes=10,
        bodies=TenantSemaphore(15, 15, "bytes are held"),
        arriving=arriving or TenantSemaphore(2, 2, "arrive"),
        running=running or TenantSemaphore(2, 2, "run"),
        timeouts=timeouts,
    )


async def test_body_bytes_are_counted_together_and_released_at_the_end() -> None:
    app = Application()
    middleware = limits(app)
    first = Client(b"x" * 10)
    running = asyncio.create_task(middleware(first.scope, first.receive, first.send))
    await app.read.wait()
    second = Client(b"x" * 6)
    await middleware(second.scope, second.receive, second.send)
    assert second.status == 429
    app.go_on.set()
    await running
    assert first.status == 200
    third = Client(b"x" * 10)
    await middleware(third.scope, third.receive, third.send)
    assert third.status == 200


@pytest.mark.parametrize("length", ["11", "-1", "x", "1e3", "99999999999999999999999"])
async def test_an_invalid_or_too_large_content_length_is_refused_unread(length: str) -> None:
    client = Client(b"x", headers={"content-length": length})
    await limits(Application())(client.scope, client.receive, client.send)
    assert client.status == 413
    assert client.pieces


async def test_a_chunked_body_over_the_limit_is_refused() -> None:
    client = Client(b"x" * 6, b"x" * 6, b"x")
    await limits(Application())(client.scope, client.receive, client.send)
    assert client.status == 413


async def test_a_body_that_does_not_arrive_times_out() -> None:
    client = Client()
    await limits(Application(), replace(TIMEOUTS, total_seconds=0.01))(client.scope, client.receive, client.send)
    assert client.status == 408


async def test_a_refused_body_is_drained_before_the_response_ends() -> None:
    async def refuse(scope: Any, receive: Any, send: Any) -> None:
        await ApiError(401, "no").response()(scope, receive, send)

    client = Client(b"x", b"y", b"z")
    await DrainRefusedBodies(refuse)(client.scope, client.receive, client.send)
    assert client.pieces == []
    assert [message.get("more_body") for message in client.sent[1:]] == [True, False]


async def test_a_body_below_the_minimum_rate_times_out_after_the_grace_period() -> None:
    client = Client(b"x", b"x", b"x")
    receive = client.receive

    async def slow() -> dict[str, Any]:
        await asyncio.sleep(0.05)
        return await receive()

    timeouts = replace(TIMEOUTS, grace_seconds=0.08, min_bytes_per_second=1e6)
    await limits(Application(), timeouts)(client.scope, slow, client.send)
    assert client.status == 408


async def test_a_slow_reader_does_not_make_a_body_slow() -> None:
    async def slow_reader(scope: Any, receive: Any, send: Any) -> None:
        while (await receive())["more_body"]:  # noqa: ASYNC110 (the sleep is what the test is about)
            await asyncio.sleep(0.02)
        await Response()(scope, receive, send)

    client = Client(b"x", b"x", b"x")
    timeouts = replace(TIMEOUTS, grace_seconds=0.01, min_bytes_per_second=1e9)
    await limits(slow_reader, timeouts)(client.scope, client.receive, client.send)
    assert client.status == 200


async def test_arriving_requests_do_not_block_running_ones() -> None:
    app = Application()
    app.go_on.set()
    middleware = limits(app, running=TenantSemaphore(1, 1, "run"), arriving=TenantSemaphore(9, 9, "arrive"))
    waiting = [Client() for _ in range(3)]
    tasks = [asyncio.create_task(middleware(each.scope, each.receive, each.send)) for each in waiting]
    await asyncio.sleep(0)
    whole = Client(b"x")
    await middleware(whole.scope, whole.receive, whole.send)
    assert whole.status == 200
    for task in tasks:
        task.cancel()


@pytest.mark.parametrize("held", ["running", "arriving"])
async def test_one_tenant_cannot_exceed_its_share(held: str) -> None:
    app = Application()
    few: dict[str, Any] = {held: TenantSemaphore(4, tenant_share(4, 0), "are there")}
    middleware = limits(app, **few)
    pieces = (b"x",) if held == "running" else ()
    first = [Client(*pieces) for _ in range(3)]
    tasks = [asyncio.create_task(middleware(each.scope, each.receive, each.send)) for each in first]
    await asyncio.sleep(0.01)
    refused = Client(b"x")
    await middleware(refused.scope, refused.receive, refused.send)
    assert refused.status == 429
    assert (b"retry-after", b"1") in refused.sent[0]["headers"]
    app.go_on.set()
    other = Client(b"x", tenant="globex")
    await middleware(other.scope, other.receive, other.send)
    assert other.status == 200
    for task in tasks:
        task.cancel()


@pytest.mark.parametrize(
    ("limit", "configured", "minimum", "expected"),
    [(64, 0, 1, 48), (1, 0, 1, 1), (8, 2, 1, 2), (8, 99, 1, 8), (10, 0, 9, 9)],
)
def test_a_tenant_share_is_three_quarters_or_as_configured(
    limit: int, configured: int, minimum: int, expected: int
) -> None:
    assert tenant_share(limit, configured, minimum=minimum) == expected


@pytest.mark.parametrize(
    ("headers", "version", "status"),
    [
        ([(b"x-a", b"b")] * 101, "1.1", 431),
        ([(b"content-length", b"1"), (b"transfer-encoding", b"chunked")], "1.1", 400),
        ([(b"transfer-encoding", b"chunked")], "1.0", 400),
    ],
)
async def test_large_or_ambiguous_headers_close_the_connection(
    headers: list[tuple[bytes, bytes]], version: str, status: int
) -> None:
    client = Client(b"")
    client.scope |= {"headers": headers, "http_version": version}
    await HeaderLimits(Application())(client.scope, client.receive, client.send)
    assert client.status == status
    assert (b"connection", b"close") in client.sent[0]["headers"]
