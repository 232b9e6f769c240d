"""Connections: many idle ones, heads and bodies sent a byte at a time, readers that do not read."""

import asyncio
import time
from contextlib import suppress

from tests.attack.http import post, request_bytes
from tests.attack.registry import Outcome, Plan, attack
from tests.attack.target import ATTACKER, Target, chat

_HELD_SECONDS = 8.0
_ENDED = ("200", "400", "408", "413", "429", "503", "closed")


@attack("idle connections by the hundred, opened and never used")
def idle(target: Target, plan: Plan) -> Outcome:
    return _held(target, [b""] * plan.count(600, 200), plan)


@attack("heads that never end, a byte at a time, by the hundred")
def slow_heads(target: Target, plan: Plan) -> Outcome:
    return _held(target, [b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nX-A: "] * plan.count(400, 100), plan)


@attack("bodies that never end, a byte at a time, more than there are slots", quick=False)
def slow_bodies(target: Target, plan: Plan) -> Outcome:
    headers = {**target.headers(ATTACKER), "Content-Type": "application/json", "Content-Length": "1000"}
    return _held(target, [request_bytes("POST", "/v1/chat/completions", headers) + b"{"] * plan.count(150, 100), plan)


@attack("uploads that never end, a byte at a time, more than there are slots", quick=False)
def slow_uploads(target: Target, plan: Plan) -> Outcome:
    kind = "multipart/form-data; boundary=a"
    headers = {**target.headers(ATTACKER), "Content-Type": kind, "Content-Length": "100000"}
    head = b'--a\r\nContent-Disposition: form-data; name="file"; filename="a.wav"\r\n\r\nRIFF'
    return _held(target, [request_bytes("POST", "/v1/media", headers) + head] * plan.count(100, 40), plan)


@attack("one tenant's requests, many more than there are slots", quick=False)
def greedy(target: Target, plan: Plan) -> Outcome:
    body = post("/v1/chat/completions", chat("Tell me everything.", max_tokens=300), target.headers(ATTACKER))
    return _held(target, [body] * plan.count(400, 100), plan, drip=False)


def _held(target: Target, firsts: list[bytes], plan: Plan, drip: bool = True) -> Outcome:
    """Opens connections, sends the first bytes of each, then a byte a second; counts how they end."""
    # A quick run ends before the deadlines: it only shows that others are served.
    allowed = (*_ENDED, "open") if plan.quick else _ENDED
    outcome = Outcome("closed or refused in time; other clients are served")
    seconds = _HELD_SECONDS / 2 if plan.quick else 4 * _HELD_SECONDS

    async def all_of_them() -> list[str]:
        until = time.monotonic() + seconds
        return await asyncio.gather(*(_one(target.port, first, until, drip) for first in firsts))

    for answer in asyncio.run(all_of_them()):
        outcome.add(answer, allowed)
    return outcome


async def _one(port: int, first: bytes, until: float, drip: bool) -> str:
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return "closed"
    try:
        writer.write(first)
        while time.monotonic() < until:
            with suppress(TimeoutError):
                async with asyncio.timeout(1.0):
                    line = await reader.readline()
                return line.split()[1].decode() if line.startswith(b"HTTP/") else "closed"
            if first and drip:
                writer.write(b"x")
                await writer.drain()
        return "open"
    except OSError:
        return "closed"
    finally:
        writer.close()
