"""The process of a model service: opens its port, loads its weights, becomes ready, serves, drains and exits."""

import asyncio
import json
import logging
import os
import signal
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, NoReturn, Protocol, TypeVar

import grpc
from grpc_health.v1 import health, health_pb2_grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2_grpc
from grpc_reflection.v1alpha._async import ReflectionServicer as AsyncReflection

from services.shared import telemetry
from services.shared.rpc.authentication import Authentication
from services.shared.rpc.channels import message_limits
from services.shared.rpc.credentials import mutual_tls_from_settings
from services.shared.rpc.grpc_types import Handler, ServerInterceptor
from services.shared.rpc.health import Health
from services.shared.rpc.interceptors import ErrorInterceptor, TelemetryInterceptor, rejecting_handler
from services.shared.rpc.parsing import HandlerTable
from services.shared.service_errors import Overloaded, ServiceError, Unavailable
from services.shared.settings import ServiceSettings, is_loopback

log = telemetry.get_logger(__name__)

_HEALTH_SECONDS = 2.0  # timeout of /healthz for the event loop to respond
_HEALTH_STREAMS = 100  # HTTP/2 streams of a connection for health checks, in addition to calls
_SERVER_OPTIONS = (
    ("grpc.so_reuseport", 0),  # a second service on the same port is a mistake, not a second worker
    ("grpc.keepalive_time_ms", 60_000),
    ("grpc.keepalive_timeout_ms", 20_000),
    ("grpc.http2.min_recv_ping_interval_without_data_ms", 10_000),
    ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
)


class Servicer(Protocol):
    """The part of a servicer that is not a gRPC method."""

    def shut_down(self) -> None:
        """Stops its threads."""


SettingsT = TypeVar("SettingsT", bound=ServiceSettings)


@dataclass(frozen=True, slots=True)
class ServiceDefinition(Generic[SettingsT]):
    """Definition of a model service.

    Attributes:
        name: Name for output, as in "speech encoder".
        full_names: Names of its gRPC services, as in "lyra.v1.SpeechEncoder".
        build: Loads the weights and creates the servicer; runs in a thread.
        register: Calls the generated `add_..Servicer_to_server` of each gRPC service.
        translate: Maps errors of `model_core` to service errors; returns None for unknown ones.
    """

    name: str
    full_names: tuple[str, ...]
    build: Callable[[SettingsT], Servicer]
    register: Callable[[Any, Any], None]
    translate: Callable[[Exception], ServiceError | None] = field(default=lambda error: None)


class _Gate(HandlerTable):
    """Rejects calls while the weights are loaded, while the service drains, and over the limit of concurrent calls."""

    def __init__(self, definition: ServiceDefinition[Any], running: Callable[[], int], max_calls: int) -> None:
        super().__init__()
        self._definition = definition
        self._running = running
        self._max_calls = max_calls
        self._closed: str | None = "is loading its weights"

    def open(self, servicer: Servicer) -> None:
        self._definition.register(servicer, self)
        self._closed = None

    def close(self, reason: str) -> None:
        self._closed = reason

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Handler | None:
        method = handler_call_details.method
        if not method.startswith(tuple(f"/{name}/" for name in self._definition.full_names)):
            return None
        if self._closed is not None:
            return rejecting_handler(Unavailable(self._definition.name, f"the {self._definition.name} {self._closed}"))
        if self._running() >= self._max_calls:
            return rejecting_handler(
                Overloaded(f"the {self._definition.name} is at its limit of {self._max_calls} concurrent calls")
            )
        return super().service(handler_call_details)


class ModelServer(Generic[SettingsT]):
    """A model service on a port.

    `start()` opens the port (health status NOT_SERVING), `load()` loads the weights (then SERVING), `drain()` stops it.
    """

    def __init__(self, settings: SettingsT, definition: ServiceDefinition[SettingsT]) -> None:
        self.settings = settings
        self.port = 0
        self.metrics_port = 0
        self._definition = definition
        self._telemetry = TelemetryInterceptor()
        self._gate = _Gate(definition, lambda: self._telemetry.running, settings.max_calls)
        self._health = Health(definition.full_names)
        self._servicer: Servicer | None = None
        self._metrics: telemetry.MetricsServer | None = None
        self._server: grpc.aio.Server | None = None

    @property
    def address(self) -> str:
        """host:port for clients."""
        return f"{self.settings.host}:{self.port}"

    async def start(self) -> None:
        """Opens the service's port and the metrics port, and writes the port file.

        Raises:
            RuntimeError: A port is in use, or a file of tokens or certificates is invalid.
        """
        settings = self.settings
        mutual_tls = mutual_tls_from_settings(settings)
        server = grpc.aio.server(
            handlers=[self._gate, self._open_methods()],
            interceptors=self._interceptors(),
            options=[
                *message_limits(settings.max_message_bytes),
                *_SERVER_OPTIONS,
                *_connection_age(settings.max_connection_seconds),
                ("grpc.max_concurrent_streams", settings.max_calls + _HEALTH_STREAMS),
            ],
        )
        address = f"{settings.host}:{settings.port}"
        if mutual_tls is None:
            self.port = server.add_insecure_port(address)
        else:
            self.port = server.add_secure_port(address, mutual_tls.server_credentials())
        await server.start()
        self._server = server
        loop = asyncio.get_running_loop()
        self._metrics = telemetry.MetricsServer(settings.host, settings.metrics_port, lambda: self._is_healthy(loop))
        self.metrics_port = self._metrics.port
        if settings.port_file is not None:
            write_port_file(settings.port_file, port=self.port, metrics_port=self.metrics_port)
        authenticated = settings.service_token_file is not None or mutual_tls is not None
        if not authenticated and not is_loopback(settings.host):
            log.warning("this port accepts calls without authentication", host=settings.host)
        log.info("listening", address=self.address, metrics_port=self.metrics_port, tls=mutual_tls is not None)

    def _interceptors(self) -> list[ServerInterceptor]:
        """Outermost first. Unauthenticated calls get no metrics by method, because clients can invent method names."""
        errors = ErrorInterceptor(
            default_deadline_seconds=self.settings.default_deadline_seconds, translate=self._definition.translate
        )
        others = ErrorInterceptor(default_deadline_seconds=None, prefix="/grpc.")
        return [Authentication.from_settings(self.settings), self._telemetry, errors, others]

    def _open_methods(self) -> HandlerTable:
        """Methods that are available before the weights are loaded: health, and reflection if enabled."""
        table = HandlerTable()
        health_pb2_grpc.add_HealthServicer_to_server(self._health, table)
        if self.settings.reflection:
            names = (*self._definition.full_names, health.SERVICE_NAME, reflection.SERVICE_NAME)
            servicer = AsyncReflection(names)
            reflection_pb2_grpc.add_ServerReflectionServicer_to_server(servicer, table)
        return table

    def _is_healthy(self, loop: asyncio.AbstractEventLoop) -> bool:
        """Whether the event loop responds and the service is ready. Called from another thread."""

        async def serving() -> bool:
            return self._health.serving

        try:
            return asyncio.run_coroutine_threadsafe(serving(), loop).result(_HEALTH_SECONDS)
        except (TimeoutError, RuntimeError):  # the loop is blocked, or closed
            return False

    async def load(self) -> None:
        """Loads the weights in a thread, then accepts calls."""
        loop = asyncio.get_running_loop()
        self._servicer = await loop.run_in_executor(None, self._definition.build, self.settings)
        self._gate.open(self._servicer)
        self._health.set_serving()
        log.info("ready", preset=self.settings.preset)

    async def drain(self) -> None:
        """Becomes NOT_SERVING, rejects new calls, and cancels calls still in progress after the grace period."""
        await self._health.enter_graceful_shutdown()  # first, so that clients switch replicas before calls are rejected
        self._gate.close("is shutting down")
        try:
            async with asyncio.timeout(self.settings.grace_seconds):
                await self._telemetry.wait_idle()
        except TimeoutError:
            log.warning("the grace period has ended", cancelled_calls=self._telemetry.running)
        if self._server is not None:
            await self._server.stop(None)
        if self._servicer is not None:
            self._servicer.shut_down()
        if self._metrics is not None:
            await asyncio.to_thread(self._metrics.close)
        log.info("stopped")


def _connection_age(seconds: float) -> tuple[tuple[str, int], ...]:
    """Server options; gRPC adds a jitter of up to 10 % (https://github.com/grpc/proposal, A9)."""
    if not seconds:
        return ()
    age, forever = max(1, round(seconds * 1000)), 2**31 - 1
    return (("grpc.max_connection_age_ms", age), ("grpc.max_connection_age_grace_ms", forever))


def write_port_file(path: Path, *, port: int, metrics_port: int | None = None) -> None:
    """Writes the ports of this process to a file, atomically, for the process that started it."""
    part = path.with_name(f".{path.name}.part")
    part.write_text(json.dumps({"port": port, "metrics_port": metrics_port, "pid": os.getpid()}))
    part.replace(path)


def run(settings: SettingsT, definition: ServiceDefinition[SettingsT]) -> NoReturn:
    """Runs a service until SIGTERM or SIGINT. Exits with code 0 after a drain, 1 if it could not start."""
    short_name = definition.name.replace(" ", "_")
    telemetry.configure_logging(settings.log_level, settings.log_format, short_name)
    telemetry.configure_tracing(short_name)
    code = asyncio.run(_serve(settings, definition))
    logging.shutdown()
    # The model's thread cannot be interrupted within a step, and unloading libraries takes seconds on a busy machine.
    # Neither is worth waiting for.
    os._exit(code)


async def _serve(settings: SettingsT, definition: ServiceDefinition[SettingsT]) -> int:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    server = ModelServer(settings, definition)
    try:
        await server.start()
    except RuntimeError as error:
        log.error("cannot listen", host=settings.host, port=settings.port, reason=str(error))
        return 1
    loading = asyncio.create_task(server.load())
    stopping = asyncio.create_task(stop.wait())
    await asyncio.wait((loading, stopping), return_when=asyncio.FIRST_COMPLETED)
    failure = loading.exception() if loading.done() else None
    if failure is not None:
        known = failure if isinstance(failure, ServiceError) else None
        if known is None and isinstance(failure, Exception):
            known = definition.translate(failure)
        log.error("cannot load the weights", reason=str(known or failure), exc_info=None if known else failure)
    else:
        await stopping
    await server.drain()
    if not loading.done():
        os._exit(0)  # loading cannot be interrupted, and asyncio would wait for its thread
    stopping.cancel()
    return 0 if failure is None else 1
