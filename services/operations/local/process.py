"""One process of a local stack: start, readiness, stop, with its output in a log file."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import grpc
import httpx
from grpc_health.v1 import health_pb2, health_pb2_grpc

from services.shared.rpc.channels import open_blocking_channel
from services.shared.rpc.credentials import ClientCredentials, mutual_tls_from_settings
from services.shared.settings import ServiceAccessSettings

POLL_SECONDS = 0.05
_LOG_TAIL_LINES = 15
_MAX_LOG_BYTES = 10 * 2**20  # larger logs are rotated at the next start


class StackError(RuntimeError):
    """A process of the stack could not be started. The message names it and contains the end of its log."""


@dataclass(frozen=True, slots=True)
class ProcessSpec:
    """How to run a process.

    Attributes:
        name: For output and file names, as in "speech_encoder".
        module: Run as `python -m module`.
        arguments: Its command line, without port and port file.
        is_ready: Whether the process at host and port accepts requests; False also if it does not respond.
        program: Executed instead of the module; its arguments contain its port, and it writes no port file.
        environment: Additional environment variables, such as secrets.
        cleanup_paths: Files that it may leave behind outside its folders; deleted when it is stopped.
        cwd: Working directory; None for that of this process.
    """

    name: str
    module: str
    arguments: Sequence[str]
    is_ready: Callable[[str, int], bool]
    program: Path | None = None
    environment: Mapping[str, str] = field(default_factory=dict)
    cleanup_paths: Sequence[Path] = ()
    cwd: Path | None = None


class LocalProcess:
    """Runs a ProcessSpec. After it has exited, it can be started again on the same port.

    Args:
        spec: How to run the process.
        host: Address it listens on.
        port: Port it listens on; 0 lets it choose one at its first start.
        run_dir: Folder for its port file.
        log_dir: Folder for its log, to which each start appends.
        spawn: Starts the process, given the arguments of `subprocess.Popen`.
    """

    def __init__(
        self,
        spec: ProcessSpec,
        *,
        host: str,
        port: int,
        run_dir: Path,
        log_dir: Path,
        spawn: Callable[..., "subprocess.Popen[bytes]"] = subprocess.Popen,
    ) -> None:
        self.spec = spec
        self.host = host
        self.port = port
        self.metrics_port = 0
        self.log_path = log_dir / f"{spec.name}.log"
        self._port_file = run_dir / f"{spec.name}.{os.getpid()}.json"
        self._spawn = spawn
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str:
        """host:port."""
        return f"{self.host}:{self.port}"

    @property
    def pid(self) -> int | None:
        """Process id, also after it has exited; None before the first start."""
        return None if self._process is None else self._process.pid

    @property
    def exit_code(self) -> int | None:
        """Exit code (negative: killed by that signal); None while it runs and before the first start."""
        return None if self._process is None else self._process.poll()

    @property
    def alive(self) -> bool:
        """Whether the process is running."""
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Starts the process; does not wait for it."""
        if self.alive:
            raise StackError(f"{self.spec.name} is already running")
        self._port_file.unlink(missing_ok=True)
        command = [sys.executable, "-m", "services.operations.local.child"]
        if self.spec.program is not None:
            command += ["--program", str(self.spec.program), *self.spec.arguments]
        else:
            command += [self.spec.module, *self.spec.arguments]
            command += ["--host", self.host, "--port", str(self.port), "--port-file", str(self._port_file)]
        # Fewer malloc arenas limit fragmentation with many threads.
        environment = {"MALLOC_ARENA_MAX": "2", **os.environ, **self.spec.environment}
        environment["LYRA_STACK_PID"] = str(os.getpid())
        if self.log_path.exists() and self.log_path.stat().st_size > _MAX_LOG_BYTES:
            self.log_path.replace(self.log_path.with_suffix(".log.1"))
        with open(self.log_path, "ab", opener=_private) as log:
            self._process = self._spawn(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=environment,
                cwd=self.spec.cwd,
                # Ctrl-C in a terminal reaches only the stack, which then stops its processes in order.
                start_new_session=True,
            )

    def wait_ready(self, timeout_seconds: float) -> None:
        """Returns when the process accepts requests.

        Raises:
            StackError: It exited, or is not ready in time.
        """
        deadline = time.monotonic() + timeout_seconds
        while not self._is_ready():
            if not self.alive:
                raise StackError(f"{self.spec.name} exited with code {self.exit_code}:\n{self.log_tail()}")
            if time.monotonic() > deadline:
                raise StackError(f"{self.spec.name} is not ready after {timeout_seconds:g} s:\n{self.log_tail()}")
            time.sleep(POLL_SECONDS)

    def signal(self, number: signal.Signals) -> None:
        """Sends a signal if the process is running."""
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(number)

    def wait(self, timeout_seconds: float) -> bool:
        """Waits for the process to exit. Returns False on timeout."""
        if self._process is None:
            return True
        try:
            self._process.wait(timeout_seconds)
        except subprocess.TimeoutExpired:
            return False
        return True

    def stop(self, timeout_seconds: float) -> None:
        """Sends SIGTERM, and SIGKILL after the timeout."""
        self.signal(signal.SIGTERM)
        if not self.wait(timeout_seconds):
            self.kill()
        for path in (self._port_file, *self.spec.cleanup_paths):
            path.unlink(missing_ok=True)

    def kill(self) -> None:
        """Sends SIGKILL and waits until the process is gone."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def log_tail(self) -> str:
        """The last lines of the log."""
        try:
            lines = self.log_path.read_text(errors="replace").splitlines()
        except FileNotFoundError:
            return ""
        return "\n".join(lines[-_LOG_TAIL_LINES:])

    def _is_ready(self) -> bool:
        if self.spec.program is not None:
            return self.alive and self.spec.is_ready(self.host, self.port)
        try:
            ports = json.loads(self._port_file.read_text())
        except FileNotFoundError:
            return False
        self.port, self.metrics_port = ports["port"], ports.get("metrics_port") or 0
        return self.spec.is_ready(self.host, self.port)


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def grpc_is_serving(host: str, port: int) -> bool:
    """Whether the gRPC health status is SERVING. Uses TLS if the environment configures certificates."""
    settings = ServiceAccessSettings()
    credentials = ClientCredentials(mutual_tls=mutual_tls_from_settings(settings), tls_name=settings.service_tls_name)
    with open_blocking_channel(f"{host}:{port}", credentials) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        try:
            answer = stub.Check(health_pb2.HealthCheckRequest(), timeout=2.0)
        except grpc.RpcError:
            return False
    return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)


def http_is_ready(host: str, port: int) -> bool:
    """Whether GET /readyz returns 200."""
    try:
        return httpx.get(f"http://{host}:{port}/readyz", timeout=2.0, trust_env=False).status_code == httpx.codes.OK
    except httpx.HTTPError:
        return False


def https_is_ready(host: str, port: int, path: str = "/readyz") -> bool:
    """As `http_is_ready`, over HTTPS. The certificate is not verified because it need not contain this address."""
    try:
        url = f"https://{host}:{port}{path}"
        return httpx.get(url, timeout=2.0, trust_env=False, verify=False).status_code == httpx.codes.OK
    except httpx.HTTPError:
        return False


def serves_metrics(host: str, port: int) -> bool:
    """Whether GET /metrics succeeds."""
    try:
        return httpx.get(f"http://{host}:{port}/metrics", trust_env=False, timeout=1.0).is_success
    except httpx.HTTPError:
        return False
