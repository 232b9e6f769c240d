import asyncio
from typing import Any

import pytest

from services.gateway.errors import ApiError
from services.gateway.limits import DrainedRefusals, Limits


class Client:
    """One request: what it sends, and what it got."""

    def __init__(self, *pieces: bytes, headers: dict[str, str] | None = None) -> None:
        self.pieces = list(pieces)
        self.sent: list[Any] = []
        raw = [(key.encode(), value.encode()) for key, value in (headers or {"transfer-encoding": "chunked"}).items()]
        self.scope: dict[str, Any] = {"type": "http", "method": "POST", "path": "/", "headers": raw}

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
    """Reads the body, then waits until it may go on."""

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


def limits(app: Any, **changes: Any) -> Limits:
    values = {"max_body_bytes": 10, "max_bodies_bytes": 15, "body_seconds": 5.0, "max_running": 2}
    return Limits(app, **{**values, **changes})


async def test_bodies_are_counted_together_and_given_free_at_the_end() -> None:
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
async def test_a_length_that_is_too_large_or_none_is_refused_unread(length: str) -> None:
    client = Client(b"x", headers={"content-length": length})
    await limits(Application())(client.scope, client.receive, client.send)
    assert client.status == 413
    assert client.pieces


async def test_a_body_that_grows_over_the_limit_is_refused() -> None:
    client = Client(b"x" * 6, b"x" * 6, b"x")
    await limits(Application())(client.scope, client.receive, client.send)
    assert client.status == 413


async def test_a_body_that_does_not_arrive_is_given_up() -> None:
    client = Client()
    await limits(Application(), body_seconds=0.01)(client.scope, client.receive, client.send)
    assert client.status == 408


async def test_a_refusal_ends_only_when_the_client_has_sent_all() -> None:
    async def refuse(scope: Any, receive: Any, send: Any) -> None:
        await ApiError(401, "no").response()(scope, receive, send)

    client = Client(b"x", b"y", b"z")
    await DrainedRefusals(refuse)(client.scope, client.receive, client.send)
    assert client.pieces == []
    assert [message.get("more_body") for message in client.sent[1:]] == [True, False]
