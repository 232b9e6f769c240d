"""Monitors a stack during attacks: dead processes, memory and open files, and how other clients are served."""

import threading
import time
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

import httpx
import psutil

from services.operations.local.process import LocalProcess
from services.operations.local.stack import GATEWAY
from tests.attack.target import BYSTANDER, CLIENT_SECONDS, Target, chat

SAMPLE_SECONDS = 0.5
HEALTH_SECONDS = 0.2
BYSTANDER_SECONDS = 0.25
MAX_STACK_MIB = 12 * 1024.0  # attacks stop above this, as the machine is shared


class TooMuchMemory(RuntimeError):
    """The stack used so much memory that the attacks were stopped."""


@dataclass(frozen=True, slots=True)
class Sample:
    """Memory and open files by process at one moment, including children."""

    seconds: float
    rss_mib: dict[str, float]
    files: dict[str, int]


@dataclass(slots=True)
class Window:
    """Measurements from the beginning of an attack to its end."""

    began: float
    samples: list[Sample] = field(default_factory=list)
    health_seconds: list[float] = field(default_factory=list)
    bystander: dict[str, int] = field(default_factory=dict)
    bystander_seconds: list[float] = field(default_factory=list)
    died: list[str] = field(default_factory=list)

    @property
    def worst_health_seconds(self) -> float:
        return max(self.health_seconds, default=0.0)

    @property
    def answered(self) -> tuple[int, int]:
        """The bystander's successful requests, and all of its requests."""
        return self.bystander.get("200", 0), sum(self.bystander.values())

    def peak_mib(self, process: str) -> float:
        return max((sample.rss_mib.get(process, 0.0) for sample in self.samples), default=0.0)

    @property
    def growth_mib(self) -> float:
        """The whole stack's largest growth since the beginning."""
        totals = [sum(sample.rss_mib.values()) for sample in self.samples]
        return max(totals) - totals[0] if totals else 0.0


class Watcher:
    """Samples in its own threads while a `with` body runs; `begin()` opens a window and `end()` returns it."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self._over = threading.Event()
        self._window = Window(time.monotonic())
        self._pids = {name: process.pid for name, process in self._processes().items()}
        self.too_much = False
        works = (self._sample, self._ask_health, self._be_bystander)
        self._threads = [threading.Thread(target=work, name=work.__name__, daemon=True) for work in works]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()

    def begin(self) -> None:
        """Opens a new window, for the next attack."""
        self._window = Window(time.monotonic(), samples=[self._look()])

    def end(self) -> Window:
        """Closes the window. Raises TooMuchMemory."""
        self._note_deaths()
        self._window.samples.append(self._look())
        if self.too_much:
            raise TooMuchMemory(f"the stack took more than {MAX_STACK_MIB:g} MiB")
        return self._window

    def restart_dead(self) -> None:
        """Restarts dead processes, for the attacks that follow."""
        for name, process in self._processes().items():
            if not process.alive:
                process.start()
                process.wait_ready(CLIENT_SECONDS)
            self._pids[name] = process.pid

    def _processes(self) -> dict[str, LocalProcess]:
        return {**self._target.stack.processes, self._target.speaker.spec.name: self._target.speaker}

    def _note_deaths(self) -> None:
        for name, process in self._processes().items():
            if name not in self._window.died and not process.alive:
                self._window.died.append(name)

    def _sample(self) -> None:
        while not self._over.wait(SAMPLE_SECONDS):
            self._note_deaths()
            sample = self._look()
            self._window.samples.append(sample)
            if sum(sample.rss_mib.values()) > MAX_STACK_MIB:
                self.too_much = True
                for process in self._processes().values():
                    process.kill()
                return

    def _look(self) -> Sample:
        rss, files = {}, {}
        for name, pid in self._pids.items():
            rss[name], files[name] = _usage(pid)
        return Sample(round(time.monotonic() - self._window.began, 2), rss, files)

    def _ask_health(self) -> None:
        with httpx.Client(base_url=self._target.url, timeout=CLIENT_SECONDS, trust_env=False) as client:
            while not self._over.wait(HEALTH_SECONDS):
                window, began = self._window, time.monotonic()
                try:
                    client.get("/healthz")
                except httpx.HTTPError:
                    if not self._target.stack.processes[GATEWAY].alive:
                        continue  # counted as a death
                window.health_seconds.append(time.monotonic() - began)

    def _be_bystander(self) -> None:
        """A well-behaved bystander that keeps sending a small request."""
        with self._target.client(BYSTANDER) as client:
            while not self._over.wait(BYSTANDER_SECONDS):
                window, began = self._window, time.monotonic()
                try:
                    answer = str(client.post("/v1/chat/completions", json=chat()).status_code)
                except httpx.HTTPError as error:
                    answer = type(error).__name__
                window.bystander[answer] = window.bystander.get(answer, 0) + 1
                window.bystander_seconds.append(time.monotonic() - began)


def _usage(pid: int | None) -> tuple[float, int]:
    """Memory in MiB and open files of a process and its children; zeros if it is gone."""
    memory, files = 0, 0
    try:
        process = psutil.Process(pid)
        for each in (process, *process.children(recursive=True)):
            memory += each.memory_info().rss
            files += each.num_fds()
    except psutil.Error:
        pass
    return round(memory / 2**20, 1), files
