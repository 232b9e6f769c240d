"""Telemetry of every process: structured logs, Prometheus metrics, and trace context propagated with each call."""

import logging
import sys
import threading
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TextIO
from wsgiref.simple_server import WSGIRequestHandler, make_server

import structlog
from opentelemetry import propagate, trace
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from prometheus_client import Counter, Gauge, Histogram, disable_created_metrics, make_wsgi_app
from prometheus_client.exposition import ThreadingWSGIServer

TENANT_METADATA = "lyra-tenant"

_TRACEBACK_FRAMES = 30  # maximum; the innermost ones are kept
_POLL_SECONDS = 0.1  # interval at which the metrics server checks whether to stop
_BATCH_BUCKETS = (1, 2, 4, 8, 16, 32, 64)
_FACTOR_BUCKETS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
_DURATION_BUCKETS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0)

disable_created_metrics()  # type: ignore[no-untyped-call]
REQUESTS = Counter("lyra_requests_total", "Finished calls, by status code.", ("method", "code"))
REQUEST_SECONDS = Histogram(
    "lyra_request_seconds", "Seconds from the start of a call to its end.", ("method",), buckets=_DURATION_BUCKETS
)
REQUESTS_RUNNING = Gauge("lyra_requests_running", "Calls in progress, including waiting ones.", ("method",))
REQUESTS_WAITING = Gauge("lyra_requests_waiting", "Calls waiting for the model.", ("service",))
MODEL_RUNNING = Gauge("lyra_model_running", "Calls that the model is processing.", ("service",))
AUDIO_SECONDS_WAITING = Gauge("lyra_audio_seconds_waiting", "Seconds of audio accepted and not encoded yet.")
BATCH_SIZE = Histogram(
    "lyra_batch_size",
    "Clips, pictures, frames or answers in one batch of the model.",
    ("service",),
    buckets=_BATCH_BUCKETS,
)
REAL_TIME_FACTOR = Histogram(
    "lyra_real_time_factor",
    "Seconds of model time per second of input or output audio.",
    ("service",),
    buckets=_FACTOR_BUCKETS,
)
UNSERVED = Counter("lyra_calls_unserved_total", "Calls that found no replica, including retries.", ("service",))
ENCODER_CACHE_HITS = Counter(
    "lyra_encoder_cache_hits_total",
    "Clips, images and videos whose tokens were cached, or being computed for another request.",
    ("service",),
)
ENCODER_CACHE_MISSES = Counter(
    "lyra_encoder_cache_misses_total", "Clips, images and videos whose tokens were computed.", ("service",)
)
ENCODER_CACHE_BYTES = Gauge("lyra_encoder_cache_bytes", "Bytes of tokens in the encoder cache.", ("service",))
CALLS_REFUSED = Counter(
    "lyra_calls_refused_total", "Calls rejected because of a missing or invalid token, by status code.", ("code",)
)
DECODINGS = Counter(
    "lyra_decodings_total",
    "Decoded user files, by task and outcome: ok, refused, crash, time, memory, ...",
    ("task", "outcome"),
)


def queue_gauges(service: str) -> Callable[[int, int], None]:
    """An `on_change` callback for FairQueue that exports its numbers as metrics of `service`."""
    running, waiting = MODEL_RUNNING.labels(service), REQUESTS_WAITING.labels(service)

    def show(running_now: int, waiting_now: int) -> None:
        running.set(running_now)
        waiting.set(waiting_now)

    show(0, 0)
    return show


def observe_work(service: str, seconds: float, audio_seconds: float, batch: int = 0) -> None:
    """Records the real-time factor of work on audio, and its batch size unless that is 0."""
    if batch:
        BATCH_SIZE.labels(service).observe(batch)
    if audio_seconds > 0:
        REAL_TIME_FACTOR.labels(service).observe(seconds / audio_seconds)


def configure_logging(level: str, style: str, service: str) -> None:
    """Configures structlog and the standard library to log to stderr.

    Args:
        level: Minimum level: debug, info, warning or error.
        style: "json", or "console" for people.
        service: Name of the process, added to every line.
    """
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.ExtraAdder(),
        _without_colors,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _add_trace,
    ]
    final: list[structlog.typing.Processor]
    if style == "json":
        frames = structlog.tracebacks.ExceptionDictTransformer(show_locals=False, max_frames=_TRACEBACK_FRAMES)
        final = [structlog.processors.ExceptionRenderer(frames), structlog.processors.JSONRenderer()]
    else:
        console = structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), exception_formatter=_write_traceback)
        final = [_escape, console]
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *final],
        )
    )
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *(each for each in shared if not isinstance(each, structlog.stdlib.ExtraAdder)),
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )
    structlog.contextvars.bind_contextvars(service=service)


def _write_traceback(file: TextIO, error: structlog.typing.ExcInfo) -> None:
    """Writes a plain traceback without the values of variables, which include requests and keys.

    The number of frames is limited: rich tracebacks take seconds for a deeply recursive error.
    """
    file.write("\n" + "".join(traceback.format_exception(*error, limit=-_TRACEBACK_FRAMES)).rstrip())


def get_logger(name: str) -> structlog.stdlib.BoundLogger:
    """A structured logger: `log.info("call ended", code="OK")`."""
    logger: structlog.stdlib.BoundLogger = structlog.stdlib.get_logger(name)
    return logger


def configure_tracing(service: str) -> None:
    """Enables tracing in this process. To export spans, add a span processor to the global provider."""
    trace.set_tracer_provider(TracerProvider(resource=Resource.create({"service.name": f"lyra.{service}"})))


def trace_metadata() -> tuple[tuple[str, str], ...]:
    """gRPC metadata that propagates the current trace to the service."""
    carrier: dict[str, str] = {}
    propagate.inject(carrier)
    return tuple(carrier.items())


@contextmanager
def server_span(method: str, metadata: Mapping[str, str]) -> Iterator[trace.Span]:
    """A server span, child of the span in `metadata`."""
    parent = propagate.extract(metadata)
    tracer = trace.get_tracer("lyra")
    with tracer.start_as_current_span(method, context=parent, kind=trace.SpanKind.SERVER) as span:
        yield span


class MetricsServer:
    """Serves the metrics of this process over HTTP in a thread, starting at construction.

    Args:
        host: Address to listen on.
        port: Port; 0 selects a free one.
        is_healthy: Enables /healthz, which returns 200 or 503, for probes that use neither TLS nor gRPC.
    """

    def __init__(self, host: str, port: int, is_healthy: Callable[[], bool] | None = None) -> None:
        application = _application(is_healthy)
        self._server = make_server(host, port, application, ThreadingWSGIServer, handler_class=_SilentHandler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(_POLL_SECONDS,), daemon=True)
        self._thread.start()

    @property
    def port(self) -> int:
        """The port it listens on."""
        return int(self._server.server_port)

    def close(self) -> None:
        """Stops serving."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def _application(is_healthy: Callable[[], bool] | None) -> Callable[..., Iterable[bytes]]:
    metrics = make_wsgi_app()

    def application(environment: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        if environment["PATH_INFO"] != "/healthz":
            body: Iterable[bytes] = metrics(environment, start)
            return body
        status = "404 Not Found" if is_healthy is None else "200 OK" if is_healthy() else "503 Service Unavailable"
        start(status, [("Content-Type", "text/plain"), ("Content-Length", "0")])
        return ()

    return application


class _SilentHandler(WSGIRequestHandler):
    timeout = 10.0  # seconds for a client to send its request; each occupies a thread

    def log_message(self, format: str, *args: Any) -> None:
        """Does not log scrapes."""


def _add_trace(logger: Any, method: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    context = trace.get_current_span().get_span_context()
    if context.is_valid:
        event["trace_id"] = f"{context.trace_id:032x}"
    return event


def _without_colors(logger: Any, method: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    event.pop("color_message", None)  # uvicorn adds a second, coloured message
    return event


def _escape(logger: Any, method: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    """Escapes line breaks, control characters and bidirectional marks, so that a value cannot forge a log line.

    JSON escapes them anyway. Tracebacks keep their line breaks: they are formatted later, from exc_info.
    """
    for name, value in event.items():
        if isinstance(value, str) and not value.isprintable():
            event[name] = "".join(
                each if each.isprintable() else each.encode("unicode_escape").decode() for each in value
            )
    return event
