"""A stack of preset tiny with job workers, and ways to disturb it."""

import io
import json
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
import redis
import soundfile

from services.operations.local.stack import WORKERS, Stack
from services.operations.local.stores import store_settings
from services.shared.jobs.layout import JobId
from services.shared.storage.client import ObjectStore
from tests.paths import DATA

RATE = 16_000
# Short intervals, so that lost work is recovered within a test.
_WORKER_TIMES = ("--lease-seconds", "2", "--reconcile-seconds", "0.5")
_ENDED = ("succeeded", "failed", "cancelled", "expired")


@cache
def speech(sentences: int, first: int = 0) -> bytes:
    """Held-out sentences, about three seconds each, with pauses between them, as FLAC."""
    lines = (DATA / "held_out" / "sentences-held-out-voice.jsonl").read_text().splitlines()[first : first + sentences]
    pause = np.zeros(int(0.6 * RATE))
    parts = [soundfile.read(DATA / "held_out" / json.loads(line)["audio"])[0] for line in lines]
    file = io.BytesIO()
    soundfile.write(file, np.concatenate([part for each in parts for part in (each, pause)]), RATE, format="FLAC")
    return file.getvalue()


@dataclass(frozen=True, slots=True)
class JobStack:
    """The stack, and a client of it."""

    stack: Stack
    http: httpx.Client
    store: ObjectStore
    redis: "redis.Redis"

    def submit(self, sound: bytes, *, key: str = "", **options: Any) -> str:
        """The id of a new job. Tries again while the store is unavailable, as the response tells clients to."""
        headers = {"Idempotency-Key": key} if key else {}
        while True:
            response = self.http.post(
                "/v1/jobs",
                files={"file": ("recording.flac", sound)},
                data={"request": json.dumps(options)},
                headers=headers,
            )
            if response.status_code != 503:
                break
            time.sleep(float(response.headers["retry-after"]))
        assert response.status_code == 202, response.text
        return str(response.json()["id"])

    def job(self, name: str) -> dict[str, Any]:
        response = self.http.get(f"/v1/jobs/{name}")
        assert response.status_code == 200, response.text
        found: dict[str, Any] = response.json()
        return found

    def ended(self, name: str) -> dict[str, Any]:
        """The job once it has ended, limited by the test's timeout."""
        while (job := self.job(name))["state"] not in _ENDED:
            time.sleep(0.1)
        return job

    def kept(self, name: str) -> bytes:
        """The result's bytes in the store, with the job id removed."""
        return self.store.get(self.id(name).result).replace(name.encode(), b"JOB")

    def id(self, name: str) -> JobId:
        return JobId("development", name)

    def names(self, name: str) -> set[str]:
        """Names of a job's objects."""
        prefix = self.id(name).prefix
        return {each.key.removeprefix(prefix) for each in self.store.list(prefix)}

    @contextmanager
    def frozen(self, process: str) -> Iterator[None]:
        """Suspends a process, as if its machine hung."""
        found = psutil.Process(self.stack.processes[process].pid)
        found.suspend()
        try:
            yield
        finally:
            with suppress(psutil.NoSuchProcess):  # it was killed meanwhile
                found.resume()

    @contextmanager
    def full(self) -> Iterator[None]:
        """The object store cannot write, although its disk has space; afterwards it is restarted.

        SeaweedFS's index stops writing once a write has failed, and this stack has no supervisor to restart it.
        """
        store = psutil.Process(self.stack.processes["object_store"].pid)
        store.rlimit(psutil.RLIMIT_FSIZE, (0, psutil.RLIM_INFINITY))
        try:
            yield
        finally:
            self.stack.kill("object_store")
            self.stack.restart("object_store")

    def children(self, worker: str) -> list[psutil.Process]:
        return psutil.Process(self.stack.processes[worker].pid).children()

    def leases(self, kind: str) -> int:
        """Units of a kind that are being worked on."""
        return sum(1 for _ in self.redis.scan_iter(match=f"lyra:lease:*/{kind}:*"))


def until(holds: Callable[[], bool]) -> None:
    """Polls until `holds()`, limited by the test's timeout."""
    while not holds():
        time.sleep(0.02)


@contextmanager
def job_stack(home: Path, *, gateway: tuple[str, ...] = (), workers: tuple[str, ...] = ()) -> Iterator[JobStack]:
    """Starts it; `arguments` are additional flags."""
    arguments = dict.fromkeys((*WORKERS, "clock"), (*_WORKER_TIMES, *workers))
    arguments["gateway"] = ("--job-event-seconds", "0.1", *gateway)
    with Stack(preset="tiny", home=home, threads=1, arguments=arguments) as stack:
        headers = {"Authorization": f"Bearer {stack.key}"}
        with httpx.Client(base_url=stack.url, headers=headers, timeout=60, trust_env=False) as http:
            store = ObjectStore(store_settings(stack.environment))
            yield JobStack(stack, http, store, redis.Redis.from_url(stack.environment["LYRA_REDIS_URL"]))


def kill(process: psutil.Process) -> None:
    """Kills processes as a crash would."""
    process.send_signal(signal.SIGKILL)
