"""Two of every process behind one address, eight streams and a job: every process is restarted, and no client notices.

Processes stand for pods. A gateway is removed from its clients' list before it gets SIGTERM, as Kubernetes removes a
pod from its Service; for the others, gRPC health checks and Celery do that. `make test-rolling-restart` keeps the log.
"""

import base64
import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from itertools import count
from pathlib import Path
from typing import Any

import httpx
import pytest

from services.operations.local.keys import development_key
from services.operations.local.process import LocalProcess, ProcessSpec, grpc_is_serving, http_is_ready, serves_metrics
from services.operations.local.stack import CLOCK, GATEWAY, SERVICES, WORKERS
from services.shared.pipeline.clients import LANGUAGE_MODEL, SPEECH_ENCODER
from tests.clients import Clients
from tests.job_stack import speech
from tests.paths import EXAMPLES
from tests.servers import READY_SECONDS, start_redis_server, start_store_server, store_environment

STREAMS = 8
SENTENCES = 24  # of a job's recording: a minute and a half
GRACE_SECONDS = 120.0
LOG_VARIABLE = "LYRA_ROLLING_RESTART_LOG"

IsReady = Callable[[str, int], bool]


@dataclass(frozen=True, slots=True)
class Restart:
    """A row of the log, in seconds."""

    process: str
    replica: int
    until_stopped: float
    until_ready: float
    exit_code: int | None
    answered_meanwhile: int


class Fleet:
    """Two of every process. Clients use only those in `gateways`."""

    def __init__(self, home: Path, cleanup: ExitStack) -> None:
        self._home, self._cleanup = home, cleanup
        self.processes: dict[str, list[LocalProcess]] = {}
        self.key = development_key(home)
        stores = {
            "LYRA_REDIS_URL": start_redis_server(home, cleanup).url,
            **store_environment(start_store_server(home, cleanup).settings),
        }
        common = ["--home", str(home), "--grace-seconds", str(GRACE_SECONDS)]
        preset = ["--preset", "tiny"]
        for name in SERVICES:
            threads = ["--threads", "1", "--metrics-port", "0"]
            self._start(name, f"services.{name}", [*common, *preset, *threads], grpc_is_serving)
        self._wait(*SERVICES)
        for name, (queues, concurrency) in WORKERS.items():
            serves = ["--queues", queues, "--concurrency", str(concurrency), "--reconcile-seconds", "1"]
            addresses = self._addresses(SPEECH_ENCODER, LANGUAGE_MODEL)
            self._start(name, "services.worker", [*common, *serves, *addresses], serves_metrics, stores)
        self._start(CLOCK, "services.worker.clock", [*common, "--reconcile-seconds", "1"], serves_metrics, stores, 1)
        self._start(GATEWAY, "services.gateway", [*common, *preset, *self._addresses(*SERVICES)], http_is_ready, stores)
        self._wait(*WORKERS, CLOCK, GATEWAY)
        self.gateways = [f"http://{each.address}" for each in self.processes[GATEWAY]]

    def restart(self, name: str, replica: int, answered: Callable[[], int]) -> Restart:
        """Like a rollout: no more calls, SIGTERM, wait, start, wait."""
        process, before = self.processes[name][replica], answered()
        url = f"http://{process.address}"
        if name == GATEWAY:
            self.gateways = [each for each in self.gateways if each != url]
        began = time.monotonic()
        process.signal(signal.SIGTERM)
        assert process.wait(GRACE_SECONDS), process.log_tail()
        stopped, code = time.monotonic(), process.exit_code
        process.start()
        process.wait_ready(READY_SECONDS)
        ready = time.monotonic()
        if name == GATEWAY:
            self.gateways = [*self.gateways, url]
        meanwhile = answered() - before
        return Restart(name, replica, round(stopped - began, 2), round(ready - stopped, 2), code, meanwhile)

    def _start(
        self,
        name: str,
        module: str,
        arguments: Sequence[str],
        is_ready: IsReady,
        environment: Mapping[str, str] | None = None,
        replicas: int = 2,
    ) -> None:
        self.processes[name] = []
        for replica in range(replicas):
            folder = self._home / f"{name}-{replica}"
            folder.mkdir()
            spec = ProcessSpec(name, module, arguments, is_ready, environment=environment or {})
            process = LocalProcess(spec, host="127.0.0.1", port=0, run_dir=folder, log_dir=folder)
            self._cleanup.callback(process.stop, 0.0)
            process.start()
            self.processes[name].append(process)

    def _wait(self, *names: str) -> None:
        for name in names:
            for process in self.processes[name]:
                process.wait_ready(READY_SECONDS)

    def _addresses(self, *names: str) -> list[str]:
        return [
            part
            for name in names
            for part in (
                f"--{name.replace('_', '-')}-address",
                ",".join(process.address for process in self.processes[name]),
            )
        ]


class Users(Clients):
    """Eight clients that keep asking, and one that submits one job after the other."""

    def __init__(self, fleet: Fleet, http: httpx.Client) -> None:
        super().__init__(*[self._ask] * STREAMS, self._work)
        self.answered = 0
        self.jobs: list[dict[str, Any]] = []
        self._fleet, self._http = fleet, http
        self._turn = count()
        self._lock = threading.Lock()

    def until_answered(self, more: int) -> None:
        """Waits for so many more answers, or a failure, limited by the test's timeout."""
        wanted = self.answered + more
        while self.answered < wanted and not self.failures:
            time.sleep(0.05)

    def _url(self) -> str:
        with self._lock:
            gateways = self._fleet.gateways
            return gateways[next(self._turn) % len(gateways)]

    def _ask(self) -> None:
        with self._http.stream("POST", f"{self._url()}/v1/chat/completions", json=_QUESTION) as response:
            if response.status_code != 200:
                raise AssertionError(response.read().decode())
            lines = [line.removeprefix("data: ") for line in response.iter_lines() if line]
        events = [json.loads(line) for line in lines[:-1]]
        deltas = [choice["delta"] for event in events for choice in event.get("choices", ())]
        if lines[-1] != "[DONE]" or not any("audio" in delta for delta in deltas):
            raise AssertionError(f"broke off with {lines[-2:]}")
        with self._lock:
            self.answered += 1

    def _work(self) -> None:
        order = json.dumps({"tasks": ["transcript", "questions"], "questions": ["Who speaks?"]})
        sound = {"file": ("recording.flac", speech(SENTENCES))}
        submitted = self._http.post(f"{self._url()}/v1/jobs", files=sound, data={"request": order})
        assert submitted.status_code == 202, submitted.text
        name = submitted.json()["id"]
        while (job := self._http.get(f"{self._url()}/v1/jobs/{name}").json())["state"] not in ("succeeded", "failed"):
            time.sleep(0.2)
        self.jobs.append({"state": job["state"], "reason": job["reason"], **job["progress"]})


def _data_url(kind: str, name: str) -> str:
    return f"data:{kind};base64,{base64.b64encode((EXAMPLES / name).read_bytes()).decode()}"


_QUESTION = {
    "model": "lyra-tiny",
    "messages": [
        {
            "role": "user",
            "content": [
                {
                    "type": "input_audio",
                    "input_audio": {"data": _data_url("", "question.wav").split(",")[1], "format": "wav"},
                },
                {"type": "image_url", "image_url": {"url": _data_url("image/png", "picture.png")}},
            ],
        }
    ],
    "modalities": ["text", "audio"],
    "audio": {"voice": "", "format": "pcm16"},
    "max_tokens": 60,
    "stream": True,
}


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    with ExitStack() as cleanup:
        yield Fleet(tmp_path, cleanup)


@pytest.mark.full
@pytest.mark.timeout(1800)
def test_a_rolling_restart_of_everything_loses_no_stream_and_no_clip(fleet: Fleet) -> None:
    """tests/integration/services/test_load_balancing.py has a small version that always runs."""
    log: list[Restart] = []
    headers = {"Authorization": f"Bearer {fleet.key}"}
    with (
        httpx.Client(headers=headers, timeout=GRACE_SECONDS, trust_env=False) as http,
        Users(fleet, http) as users,
    ):
        users.until_answered(STREAMS)
        for name, processes in fleet.processes.items():
            for replica in range(len(processes)):
                log.append(fleet.restart(name, replica, lambda: users.answered))
                users.until_answered(2)
    _write_log(log, users)
    assert users.failures == []
    assert {restart.exit_code for restart in log} == {0}
    assert [job["state"] for job in users.jobs] == ["succeeded"] * len(users.jobs) != []
    assert all(job["clips_heard"] == job["clips"] > 1 for job in users.jobs)


def _write_log(log: Sequence[Restart], users: Users) -> None:
    """Writes the log as JSON to the file named in the environment, if any."""
    if path := os.environ.get(LOG_VARIABLE):
        report = {
            "streams_at_a_time": STREAMS,
            "answered": users.answered,
            "failed_streams": len(users.failures),
            "failures": users.failures,
            "jobs": len(users.jobs),
            "clips": sum(job["clips"] for job in users.jobs),
            "lost_clips": sum(job["clips"] - job["clips_heard"] for job in users.jobs),
            "restarts": [asdict(each) for each in log],
        }
        Path(path).write_text(json.dumps(report, indent=2) + "\n")
