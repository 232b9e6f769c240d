"""Minutes of mixed load by several tenants, well-behaved or not: memory and open files must stay flat."""

import random
import threading
import time
from collections import Counter
from collections.abc import Callable
from statistics import median

import httpx

from tests.attack.kinds.media import silence
from tests.attack.mutations import changed_bytes, changed_json
from tests.attack.registry import Outcome, Plan, attack
from tests.attack.target import ATTACKER, MODEL, VICTIM, Target, chat
from tests.attack.watcher import Sample, Window
from tests.job_stack import speech

_THREADS = 6
_QUICK_MINUTES = 0.2
# Allowance for caches, arenas and threads of the first requests. A leak of 1 KiB per request exceeds it in ten minutes.
_MAX_GROWTH_MIB, _MAX_GROWTH = 48.0, 0.10
_MAX_FILES = 50
_ALLOWED = ("200", "201", "202", "204", "400", "404", "408", "409", "413", "415", "429", "left")

Work = Callable[[httpx.Client, random.Random], str]


def growth(samples: list[Sample]) -> dict[str, tuple[float, float]]:
    """MiB of each process in the second and in the last fifth of the time; the first fifth fills caches."""
    fifth = max(1, len(samples) // 5)
    early, late = samples[fifth : 2 * fifth] or samples, samples[-fifth:]
    return {
        name: (median(each.rss_mib[name] for each in early), median(each.rss_mib[name] for each in late))
        for name in samples[-1].rss_mib
    }


def stays_flat(outcome: Outcome, window: Window) -> None:
    """Memory and open files must return to where they were."""
    samples = window.samples
    for name, (early, late) in growth(samples).items():
        limit = early + max(_MAX_GROWTH_MIB, _MAX_GROWTH * early)
        outcome.require(late <= limit, f"{name} grew from {early:.0f} to {late:.0f} MiB")
    fifth = max(1, len(samples) // 5)
    for name in samples[-1].files:
        early, late = samples[fifth].files[name], samples[-1].files[name]
        outcome.require(late <= early + _MAX_FILES, f"{name} has {late} files open, had {early}")


@attack(
    "minutes of mixed load by two tenants, with good and bad requests, and clients that leave",
    quick=False,
    judge=stays_flat,
)
def mixed(target: Target, plan: Plan) -> Outcome:
    outcome = Outcome("answers, 4xx to what is bad; memory and files stay flat")
    until = time.monotonic() + 60 * (_QUICK_MINUTES if plan.quick else plan.minutes)
    counts: Counter[str] = Counter()
    lock = threading.Lock()

    def work(number: int) -> None:
        draw = plan.random(f"load:{number}")
        with target.client((ATTACKER, VICTIM)[number % 2]) as client:
            while time.monotonic() < until:
                each = draw.choice(_WORKS)
                answer = each(client, draw)
                with lock:
                    counts[each.__name__.strip("_")] += 1
                    outcome.add(answer, _ALLOWED, each.__name__)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(_THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    outcome.note = ", ".join(f"{name} x{count}" for name, count in counts.most_common())
    return outcome


def _chat(client: httpx.Client, draw: random.Random) -> str:
    return _status(client.post("/v1/chat/completions", json=chat("Hello " * draw.randrange(1, 50), max_tokens=8)))


def _spoken_chat(client: httpx.Client, draw: random.Random) -> str:
    body = chat("Hello", max_tokens=8, modalities=["text", "audio"], audio={"format": "mp3"})
    return _status(client.post("/v1/chat/completions", json=body))


def _left_chat(client: httpx.Client, draw: random.Random) -> str:
    with client.stream("POST", "/v1/chat/completions", json=chat("Hello", max_tokens=50, stream=True)) as response:
        for _ in response.iter_bytes():
            if draw.random() < 0.3:
                return "left"
    return _status(response)


def _bad_chat(client: httpx.Client, draw: random.Random) -> str:
    headers = {"Content-Type": "application/json"}
    return _status(client.post("/v1/chat/completions", content=changed_json(draw, chat("Hello")), headers=headers))


def _speak(client: httpx.Client, draw: random.Random) -> str:
    body = {"model": MODEL, "input": "Hello, world. " * draw.randrange(1, 10), "response_format": "opus"}
    return _status(client.post("/v1/audio/speech", json=body))


def _transcribe(client: httpx.Client, draw: random.Random) -> str:
    file = {"file": ("a.flac", speech(draw.randrange(1, 4)))}
    return _status(client.post("/v1/audio/transcriptions", files=file, data={"model": MODEL}))


def _damaged(client: httpx.Client, draw: random.Random) -> str:
    return _status(client.post("/v1/media", files={"file": ("a.flac", changed_bytes(draw, speech(1)))}))


def _bomb(client: httpx.Client, draw: random.Random) -> str:
    file = {"file": ("a.ogg", silence("vorbis", "ogg", 2))}
    return _status(client.post("/v1/audio/transcriptions", files=file, data={"model": MODEL}))


def _media(client: httpx.Client, draw: random.Random) -> str:
    kept = client.post("/v1/media", files={"file": ("a.flac", speech(1, first=draw.randrange(20)))})
    return _status(client.delete(f"/v1/media/{kept.json()['id']}")) if kept.is_success else _status(kept)


def _job(client: httpx.Client, draw: random.Random) -> str:
    job = client.post("/v1/jobs", files={"file": ("a.flac", speech(1))})
    if not job.is_success:
        return _status(job)
    path = f"/v1/jobs/{job.json()['id']}"
    with client.stream("GET", f"{path}/events") as events:
        for _ in events.iter_bytes():
            if draw.random() < 0.5:
                break
    cancelled = client.post(f"{path}/cancel")
    client.delete(path)
    return _status(cancelled)


def _status(response: httpx.Response) -> str:
    return str(response.status_code)


_WORKS: tuple[Work, ...] = (
    *(_chat, _spoken_chat, _left_chat, _bad_chat, _speak, _transcribe, _damaged, _bomb, _media, _job),
)
