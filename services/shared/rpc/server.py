"""A model service as a process: opens its port, loads its weights, says that it is ready, serves, drains, ends."""

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
from services.shared.rpc.interceptors import ErrorInterceptor, TelemetryInterceptor, refusal
from services.shared.rpc.parsing import HandlerTable
from services.shared.service_errors import Overloaded, ServiceError, Unavailable
from services.shared.settings import ServiceSettings, is_loopback

log = telemetry.get_logger(__name__)

_HEALTH_SECONDS = 2.0  # within which a process that is well says so
_STREAMS_BESIDE_CALLS = 100  # health checks of one connection
_SERVER_OPTIONS = (
    ("grpc.so_reuseport", 0),  # a second service on the same port is a mistake, not a second worker
    ("grpc.keepalive_time_ms", 60_000),
    ("grpc.keepalive_timeout_ms", 20_000),
    ("grpc.http2.min_recv_ping_interval_without_data_ms", 10_000),
    ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
)


class Servicer(Protocol):
    """What a service's servicer has beside its gRPC methods."""

    def shut_down(self) -> None:
        """Lets its threads end."""


SettingsT = TypeVar("SettingsT", bound=ServiceSettings)


@dataclass(frozen=True, slots=True)
class ServiceDefinition(Generic[SettingsT]):
    """What makes one service differ from the others.

    Attributes:
        name: For people, as in "speech encoder".
        full_names: gRPC services, as in "lyra.v1.SpeechEncoder".
        build: Loads the weights and makes the servicer; runs in a thread.
        register: The generated `add_..Servicer_to_server`, of each gRPC service.
        translate: Turns errors of the model's layer into ours; None for errors it does not know.
    """

    name: str
    full_names: tuple[str, ...]
    build: Callable[[SettingsT], Servicer]
    register: Callable[[Any, Any], None]
    translate: Callable[[Exception], ServiceError | None] = field(default=lambda error: None)


class _Gate(HandlerTable):
    """Where calls arrive: refuses them until the weights are there, while the service drains, and when too many run."""

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
            return refusal(Unavailable(self._definition.name, f"the {self._definition.name} {self._closed}"))
        if self._running() >= self._max_calls:
            return refusal(Overloaded(f"{self._max_calls} calls are open, the limit of the {self._definition.name}"))
        return super().service(handler_call_details)


class ModelServer(Generic[SettingsT]):
    """One service on one port.

    `start()` opens the port (health says NOT_SERVING), `load()` loads the weights (then SERVING), `drain()` ends it.
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
        """host:port, for a client."""
        return f"{self.settings.host}:{self.port}"

    async def start(self) -> None:
        """Opens the service's port and the metrics port, and writes the port file.

        Raises:
            RuntimeError: A port is taken, or a file of tokens or certificates cannot be used.
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
                ("grpc.max_concurrent_streams", settings.max_calls + _STREAMS_BESIDE_CALLS),
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
        self._metrics = telemetry.MetricsServer(settings.host, settings.metrics_port, lambda: self._is_well(loop))
        self.metrics_port = self._metrics.port
        if settings.port_file is not None:
            write_port_file(settings.port_file, port=self.port, metrics_port=self.metrics_port)
        known = settings.service_token_file is not None or mutual_tls is not None
        if not known and not is_loopback(settings.host):
            log.warning("whoever reaches this port can use the service", host=settings.host)
        log.info("listening", address=self.address, metrics_port=self.metrics_port, tls=mutual_tls is not None)

    def _interceptors(self) -> list[ServerInterceptor]:
        """From the outside in: strangers are not even counted by method, since they make up names."""
        errors = ErrorInterceptor(
            default_deadline_seconds=self.settings.default_deadline_seconds, translate=self._definition.translate
        )
        others = ErrorInterceptor(default_deadline_seconds=None, prefix="/grpc.")
        return [Authentication.of(self.settings), self._telemetry, errors, others]

    def _open_methods(self) -> HandlerTable:
        """Methods that do not wait for the weights: health, and reflection where it is wanted."""
        table = HandlerTable()
        health_pb2_grpc.add_HealthServicer_to_server(self._health, table)
        if self.settings.reflection:
            names = (*self._definition.full_names, health.SERVICE_NAME, reflection.SERVICE_NAME)
            servicer = AsyncReflection(names)
            reflection_pb2_grpc.add_ServerReflectionServicer_to_server(servicer, table)
        return table

    def _is_well(self, loop: asyncio.AbstractEventLoop) -> bool:
        """Whether the event loop answers, and that the service is ready. Asked from another thread."""

        async def serving() -> bool:
            return self._health.serving

        try:
            return asyncio.run_coroutine_threadsafe(serving(), loop).result(_HEALTH_SECONDS)
        except (TimeoutError, RuntimeError):  # it hangs, or is closed
            return False

    async def load(self) -> None:
        """Loads the weights off the event loop, then takes calls."""
        loop = asyncio.get_running_loop()
        self._servicer = await loop.run_in_executor(None, self._definition.build, self.settings)
        self._gate.open(self._servicer)
        self._health.set_serving()
        log.info("ready", preset=self.settings.preset)

    async def drain(self) -> None:
        """Says NOT_SERVING, refuses what is new, lets what runs finish within the grace period, cancels the rest."""
        await self._health.end()  # first, so that balancers leave before anybody is refused
        self._gate.close("is shutting down")
        try:
            async with asyncio.timeout(self.settings.grace_seconds):
                await self._telemetry.wait_idle()
        except TimeoutError:
            log.warning("grace period is over", cancelled_calls=self._telemetry.running)
        if self._server is not None:
            await self._server.stop(None)
        if self._servicer is not None:
            self._servicer.shut_down()
        if self._metrics is not None:
            await asyncio.to_thread(self._metrics.close)
        log.info("stopped")


def _connection_age(seconds: float) -> tuple[tuple[str, int], ...]:
    """Server options; gRPC adds a tenth more or less by chance (https://github.com/grpc/proposal, A9)."""
    if not seconds:
        return ()
    age, forever = max(1, round(seconds * 1000)), 2**31 - 1
    return (("grpc.max_connection_age_ms", age), ("grpc.max_connection_age_grace_ms", forever))


def write_port_file(path: Path, *, port: int, metrics_port: int | None = None) -> None:
    """Tells whoever started this process which ports it took; the file appears whole or not at all."""
    part = path.with_name(f".{path.name}.part")
    part.write_text(json.dumps({"port": port, "metrics_port": metrics_port, "pid": os.getpid()}))
    part.replace(path)


def run(settings: SettingsT, definition: ServiceDefinition[SettingsT]) -> NoReturn:
    """Runs a service until SIGTERM or SIGINT. The process ends with code 0 after a drain, 1 if it could not start."""
    short_name = definition.name.replace(" ", "_")
    telemetry.configure_logging(settings.log_level, settings.log_format, short_name)
    telemetry.configure_tracing(short_name)
    code = asyncio.run(_serve(settings, definition))
    logging.shutdown()
    # A model's thread cannot be interrupted in the middle of a step, and taking the libraries down takes seconds on a
    # busy machine: neither is worth the grace period of whoever stops us.
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
        os._exit(0)  # the thread that loads cannot be interrupted, and asyncio would wait for it
    stopping.cancel()
    return 0 if failure is None else 1
