"""Hundreds of streams of events and of answers: read, unread, and abandoned midway."""

import asyncio
from collections import Counter
from contextlib import suppress

import psutil

from tests.attack.http import post, request_bytes
from tests.attack.registry import Outcome, Plan, attack
from tests.attack.target import ATTACKER, Target, chat
from tests.job_stack import speech

# A server with too many connections answers 503; the attacker's own streams may end in any way.
_ALLOWED = ("200", "429", "503", "closed")


@attack("hundreds of event streams of a job that does not end")
def event_streams(target: Target, plan: Plan) -> Outcome:
    outcome = Outcome("200, or 429 where they are too many")
    workers = [psutil.Process(target.stack.processes[name].pid) for name in ("plan_worker", "clip_worker")]
    stopped = [each for worker in workers for each in (worker, *worker.children())]
    with target.client(ATTACKER) as client:
        for each in stopped:
            each.suspend()
        try:
            job = client.post("/v1/jobs", files={"file": ("a.flac", speech(1))}).json()["id"]
            asked = request_bytes("GET", f"/v1/jobs/{job}/events", target.headers(ATTACKER))
            answers = asyncio.run(_all_at_once(target.port, [asked] * plan.count(500, 100), plan.count(15, 4)))
        finally:
            for each in stopped:
                with suppress(psutil.NoSuchProcess):
                    each.resume()
        _count(outcome, answers)
        client.post(f"/v1/jobs/{job}/cancel")
    return outcome


@attack("hundreds of streamed answers that nobody reads")
def unread_answers(target: Target, plan: Plan) -> Outcome:
    outcome = Outcome("200, or 429 where they are too many")
    body = chat("Tell me everything.", stream=True, max_tokens=200)
    asked = post("/v1/chat/completions", body, target.headers(ATTACKER))
    _count(outcome, asyncio.run(_all_at_once(target.port, [asked] * plan.count(300, 40), 3.0, reads=False)))
    return outcome


@attack("hundreds of streamed answers whose clients disconnect after the first bytes")
def left_answers(target: Target, plan: Plan) -> Outcome:
    outcome = Outcome("200, or 429 where they are too many")
    body = chat("Tell me everything.", stream=True, max_tokens=200)
    asked = post("/v1/chat/completions", body, target.headers(ATTACKER))
    for _ in range(plan.count(10, 2)):
        _count(outcome, asyncio.run(_all_at_once(target.port, [asked] * plan.count(100, 20), 0.2)))
    return outcome


def _count(outcome: Outcome, answers: Counter[str]) -> None:
    for answer, count in answers.items():
        for _ in range(count):
            outcome.add(answer, _ALLOWED)


async def _all_at_once(port: int, requests: list[bytes], seconds: float, reads: bool = True) -> Counter[str]:
    """Opens all, holds them for a while, and closes them. Returns their statuses."""
    return Counter(await asyncio.gather(*(_held(port, each, seconds, reads) for each in requests)))


async def _held(port: int, request: bytes, seconds: float, reads: bool) -> str:
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=2**12)
    except OSError:
        return "closed"
    try:
        writer.write(request)
        await writer.drain()
        if not reads:
            await asyncio.sleep(seconds)
        status = await asyncio.wait_for(reader.readline(), 60)
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds if reads else 0.1):
                while await reader.read(2**16):
                    pass
        return status.split()[1].decode() if status else "closed"
    except TimeoutError:
        return "no answer"
    except OSError:
        return "closed"
    finally:
        writer.close()
