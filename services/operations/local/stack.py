"""The stack: stores, model services, workers and gateway on this machine, started, supervised and stopped together."""

import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import psutil
from pydantic import ValidationError

from services.operations.local import stores
from services.operations.local.keys import development_key
from services.operations.local.process import (
    LocalProcess,
    ProcessSpec,
    StackError,
    grpc_is_serving,
    http_is_ready,
    https_is_ready,
    serves_metrics,
)
from services.operations.local.store_watch import StoreWatch
from services.shared.private_files import FolderNotPrivate, close_to_others, make_private
from services.shared.rpc.tokens import make_token_file
from services.shared.settings import default_home
from services.shared.storage.settings import StoreSettings

SERVICES = ("speech_encoder", "vision_encoder", "language_model", "speech_synthesizer")
WITH_ADAPTERS = ("speech_encoder", "language_model")  # whose adapters operators load and unload
GATEWAY = "gateway"
STORES = (stores.OBJECT_STORE, stores.REDIS)
# Workers of long-audio jobs by name: their queues and concurrency.
WORKERS = {
    "plan_worker": ("plans,webhooks,housekeeping", 2),
    "clip_worker": ("clips", 2),
    "answer_worker": ("answers", 2),
}
CLOCK = "clock"

_FIRST_BACKOFF_SECONDS = 0.5
_MAX_BACKOFF_SECONDS = 30.0
_STABLE_SECONDS = 60.0  # a process that ran this long restarts without back-off
_KILL_MARGIN_SECONDS = 5.0


class StackRunning(StackError):
    """Another stack is running in this home."""


class Stack:
    """All processes of Lyra on this machine. As a context manager, starts on entry and stops on exit.

    Args:
        preset: Weights to run.
        checkpoint: Folder of a checkpoint in the published layout, where the preset runs one.
        home: Folder of weights, keys and run files; None for $LYRA_HOME or its default.
        host: Address that the gateway listens on. The services stay on loopback.
        port: Port of the gateway; 0 selects a free one.
        log_dir: Folder with a log file per process; None for `<home>/logs`.
        threads: CPU threads of each service's model; 0 for all cores.
        grace_seconds: Seconds that running requests may take to finish when the stack stops.
        announce: Whether to write `<home>/run/stack.json` for other commands; at most one stack per home.
        jobs: Whether to support media and long-audio jobs, with workers and the clock, an object store unless
            LYRA_STORE_ENDPOINT is set, and a Redis unless LYRA_REDIS_URL is set; at most one stack per home.
        arguments: Additional command line arguments by process name.
    """

    def __init__(
        self,
        *,
        preset: str = "nano",
        checkpoint: Path | None = None,
        home: Path | None = None,
        host: str = "127.0.0.1",
        port: int = 0,
        log_dir: Path | None = None,
        threads: int = 0,
        grace_seconds: float = 10.0,
        announce: bool = True,
        jobs: bool = True,
        arguments: Mapping[str, Sequence[str]] | None = None,
    ) -> None:
        self.preset = preset
        self.checkpoint = checkpoint
        self.home = home or default_home()
        self.host = host
        self.log_dir = log_dir or self.home / "logs"
        self.key = ""
        self.processes: dict[str, LocalProcess] = {}
        self.warnings: list[str] = []  # for the caller to show
        self.environment: dict[str, str] = {}  # for clients of the stores that this stack runs
        self.service_token_file = self.home / "run" / "service-token"
        self.operator_token_file = self.home / "run" / "operator-token"
        self._port = port
        self._threads = threads
        self._grace_seconds = grace_seconds
        self._announce = announce
        self._jobs = jobs
        self._arguments = arguments or {}
        self._run_dir = self.home / "run"
        self._watch: StoreWatch | None = None
        # The kernel kills a child when the thread that spawned it exits; this thread lives as long as the stack.
        self._spawner = ThreadPoolExecutor(max_workers=1, thread_name_prefix="stack-spawner")

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def url(self) -> str:
        """URL of the gateway."""
        host = "127.0.0.1" if self.host in ("0.0.0.0", "::") else self.host
        return f"{self._scheme}://{host}:{self.processes[GATEWAY].port}"

    @property
    def _scheme(self) -> str:
        """Scheme of the gateway, which inherits this process's environment."""
        return "https" if os.environ.get("LYRA_GATEWAY_TLS_CERT_FILE") else "http"

    @property
    def stack_file(self) -> Path:
        """File of mode 0600 with the address and key of the running stack."""
        return self._run_dir / "stack.json"

    def start(self, timeout_seconds: float = 180.0, on_ready: Callable[[str], None] = lambda name: None) -> None:
        """Starts all processes and returns when they accept requests.

        Args:
            timeout_seconds: Time for all processes to become ready.
            on_ready: Called with the name of each process once it is ready.

        Raises:
            StackError: A process exited or was not ready in time; the others have been stopped again.
            StackRunning: Another stack is running in this home.
        """
        self._make_home_private()
        if self._announce:
            self._refuse_second_stack()
        self.key = development_key(self.home)
        make_token_file(self.service_token_file)
        make_token_file(self.operator_token_file)
        deadline = time.monotonic() + timeout_seconds
        try:
            if self._jobs:
                self._make_stores()
            for name in SERVICES:
                self.processes[name] = self._make(self._service_spec(name), "127.0.0.1", 0)
            backends = dict(self.processes)
            for process in backends.values():
                process.start()
            for name in backends:
                self.processes[name].wait_ready(deadline - time.monotonic())
                on_ready(name)
            if self._jobs:
                for name in (*WORKERS, CLOCK):
                    self.processes[name] = self._make(self._worker_spec(name), "127.0.0.1", 0)
            self.processes[GATEWAY] = self._make(self._gateway_spec(), self.host, self._port)
            frontends = {name: process for name, process in self.processes.items() if name not in backends}
            for process in frontends.values():
                process.start()
            for name, process in frontends.items():
                process.wait_ready(deadline - time.monotonic())
                on_ready(name)
            if self._announce:
                self._write_stack_file()
        except BaseException:
            self.stop()
            raise

    def restart(self, name: str, timeout_seconds: float = 180.0) -> None:
        """Restarts a process on its port and returns when it accepts requests."""
        process = self.processes[name]
        if process.alive:
            process.stop(self._grace_seconds + _KILL_MARGIN_SECONDS)
        self._restart(name)
        process.wait_ready(timeout_seconds)

    def kill(self, name: str) -> None:
        """Kills a process, as in a crash."""
        self.processes[name].kill()

    def exited(self) -> list[str]:
        """Names of the processes that have exited."""
        return [name for name, process in self.processes.items() if not process.alive]

    def supervise(self, stop: threading.Event, on_event: Callable[[str], None] = lambda text: None) -> None:
        """Restarts processes that exit, with exponential back-off, until `stop` is set.

        Also restarts an object store that became read-only on a full disk, once there is space again.

        Args:
            stop: Ends the supervision, not the stack.
            on_event: Called with a line for output whenever a process exits or is restarted.
        """
        started = dict.fromkeys(self.processes, time.monotonic())
        backoff = dict.fromkeys(self.processes, _FIRST_BACKOFF_SECONDS)
        due: dict[str, float] = {}
        while not stop.wait(0.2):
            now = time.monotonic()
            for name in self.exited():
                if name not in due:
                    if now - started[name] > _STABLE_SECONDS:
                        backoff[name] = _FIRST_BACKOFF_SECONDS
                    due[name] = now + backoff[name]
                    backoff[name] = min(2 * backoff[name], _MAX_BACKOFF_SECONDS)
                    code, log = self.processes[name].exit_code, self.processes[name].log_path
                    on_event(f"{name} exited with code {code}, restarting in {due[name] - now:g} s; its log: {log}")
                elif now >= due[name]:
                    del due[name]
                    started[name] = now
                    self._restart(name)
                    on_event(f"{name} was restarted")
            if self._watch and self.processes[stores.OBJECT_STORE].alive and (reason := self._watch.restart_reason()):
                on_event(f"restarting {stores.OBJECT_STORE}: {reason}")
                self.kill(stores.OBJECT_STORE)
                self._restart(stores.OBJECT_STORE)
                started[stores.OBJECT_STORE] = now

    def stop(self) -> None:
        """Stops gateway, workers, services and stores in this order, each after its running work. Idempotent."""
        limit = self._grace_seconds + _KILL_MARGIN_SECONDS
        if self._announce and self._is_ours():
            self.stack_file.unlink(missing_ok=True)
        for names in ((GATEWAY,), (*WORKERS, CLOCK), SERVICES, STORES):
            processes = [self.processes[name] for name in names if name in self.processes]
            for process in processes:
                process.signal(signal.SIGTERM)
            deadline = time.monotonic() + limit
            for process in processes:
                process.stop(max(0.0, deadline - time.monotonic()))
        self._spawner.shutdown()

    def _make_home_private(self) -> None:
        """Makes everything that a stack writes private to this user. Raises StackError."""
        try:
            make_private(self.home)
        except FolderNotPrivate as error:
            self.warnings.append(str(error))
        try:
            for folder in (self._run_dir, self.log_dir):
                make_private(folder)
                close_to_others(folder)
        except FolderNotPrivate as error:
            raise StackError(str(error)) from error

    def _make(self, spec: ProcessSpec, host: str, port: int) -> LocalProcess:
        return LocalProcess(spec, host=host, port=port, run_dir=self._run_dir, log_dir=self.log_dir, spawn=self._spawn)

    def _spawn(self, *arguments: Any, **options: Any) -> "subprocess.Popen[bytes]":
        process: subprocess.Popen[bytes] = self._spawner.submit(
            lambda: subprocess.Popen(*arguments, **options)
        ).result()
        return process

    def _restart(self, name: str) -> None:
        self.processes[name].start()
        if name == stores.OBJECT_STORE and self._watch:
            self._watch.on_start()

    def _make_stores(self) -> None:
        if not os.environ.get("LYRA_STORE_ENDPOINT"):
            try:
                reserve = StoreSettings().store_reserve_bytes
            except ValidationError as error:
                raise StackError(f"LYRA_STORE_...: {error}") from error
            spec, port, environment = stores.object_store(self.home / "store", reserve_bytes=reserve)
            self.processes[spec.name] = self._make(spec, stores.HOST, port)
            self.environment |= environment
            settings = stores.store_settings(environment)
            assert settings.store_folder is not None
            self._watch = StoreWatch(
                settings.store_folder, settings.store_reserve_bytes, lambda: spec.is_ready(stores.HOST, port)
            )
        if not os.environ.get("LYRA_REDIS_URL"):
            spec, port, url = stores.valkey(self.home / "redis")
            self.processes[spec.name] = self._make(spec, stores.HOST, port)
            self.environment["LYRA_REDIS_URL"] = url

    def _common_arguments(self) -> list[str]:
        grace = str(self._grace_seconds)
        token = str(self.service_token_file)
        return ["--home", str(self.home), "--grace-seconds", grace, "--service-token-file", token]

    def _service_spec(self, name: str) -> ProcessSpec:
        arguments = [*self._common_arguments(), "--preset", self.preset]
        arguments += ["--threads", str(self._threads), "--metrics-port", "0"]
        if name in WITH_ADAPTERS:
            arguments += ["--operator-token-file", str(self.operator_token_file)]
        if self.checkpoint is not None:
            arguments += ["--checkpoint", str(self.checkpoint.resolve())]
        arguments += self._arguments.get(name, ())
        return ProcessSpec(name, f"services.{name}", arguments, grpc_is_serving)

    def _worker_spec(self, name: str) -> ProcessSpec:
        arguments = self._common_arguments()
        for service in ("speech_encoder", "language_model"):
            arguments += [f"--{service.replace('_', '-')}-address", self.processes[service].address]
        module = "services.worker.clock"
        if name in WORKERS:
            queues, concurrency = WORKERS[name]
            arguments += ["--queues", queues, "--concurrency", str(concurrency)]
            module = "services.worker"
        arguments += self._arguments.get(name, ())
        return ProcessSpec(name, module, arguments, serves_metrics, environment=self.environment)

    def _gateway_spec(self) -> ProcessSpec:
        arguments = [*self._common_arguments(), "--preset", self.preset]
        for name in SERVICES:
            arguments += [f"--{name.replace('_', '-')}-address", self.processes[name].address]
        arguments += self._arguments.get(GATEWAY, ())
        is_ready = https_is_ready if self._scheme == "https" else http_is_ready
        return ProcessSpec(GATEWAY, "services.gateway", arguments, is_ready, environment=self.environment)

    def _refuse_second_stack(self) -> None:
        try:
            state = json.loads(self.stack_file.read_text())
            pid, url = int(state["pid"]), str(state["url"])
        except (FileNotFoundError, ValueError, KeyError):
            return
        if psutil.pid_exists(pid):
            raise StackRunning(f"a stack is already running at {url} (process {pid})")

    def _is_ours(self) -> bool:
        try:
            return bool(json.loads(self.stack_file.read_text())["pid"] == os.getpid())
        except (FileNotFoundError, ValueError, KeyError):
            return False

    def _write_stack_file(self) -> None:
        state = {
            "pid": os.getpid(),
            "url": self.url,
            "key": self.key,
            "preset": self.preset,
            "logs": str(self.log_dir),
            "service_token_file": str(self.service_token_file),
            "operator_token_file": str(self.operator_token_file),
            "services": {
                name: {"address": process.address, "metrics_port": process.metrics_port}
                for name, process in self.processes.items()
                if name in SERVICES
            },
        }
        part = self.stack_file.with_suffix(".part")
        part.unlink(missing_ok=True)
        part.touch(mode=0o600)
        part.write_text(json.dumps(state, indent=2))
        part.replace(self.stack_file)
