"""Client channels to the model services: they detect dead peers, reconnect quickly and balance over healthy replicas.

Addresses have three forms:

- "host:port": one process, or an external load balancer.
- "dns:///name:port": every address of the name, such as a headless Service of Kubernetes.
- "10.0.0.1:50051,10.0.0.2:50051": a fixed list.

The last two are balanced on the client, round robin. Each replica's health is watched
(https://github.com/grpc/grpc/blob/master/doc/health-checking.md), so one that is loading or draining gets no calls. A
name is resolved again whenever a replica closes a connection, which our servers do every few seconds (`server.py`):
that is how clients find added replicas.
"""

import ipaddress
import json
import re
from collections.abc import Callable
from typing import Annotated, Any

import grpc
from pydantic import AfterValidator

from services.shared.rpc.credentials import ClientCredentials
from services.shared.rpc.reconnecting import ReconnectingChannel

NO_CREDENTIALS = ClientCredentials()

# A restarted service is found again within a second, not after gRPC's default back-off of up to two minutes.
_RECONNECT_OPTIONS = (
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
    # Despite its name, the minimum timeout of a connection attempt.
    ("grpc.min_reconnect_backoff_ms", 1500),
)
KEEPALIVE_OPTIONS = (
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 0),
    ("grpc.http2.max_pings_without_data", 0),
)
# For addresses with several replicas.
_BALANCED_OPTIONS = (
    (
        "grpc.service_config",
        json.dumps({"loadBalancingConfig": [{"round_robin": {}}], "healthCheckConfig": {"serviceName": ""}}),
    ),
    # Replicas change by the second while a service scales; by default gRPC resolves at most twice a minute.
    ("grpc.dns_min_time_between_resolutions_ms", 1000),
)
_HOST_PORT = re.compile(r"(?P<host>\[[0-9a-fA-F:.]+\]|[^\s,:/\[\]]+):(?P<port>\d{1,5})")
_DNS = re.compile(r"dns://(?P<server>[^/\s]*)/(?P<name>[^/\s]+)")


def message_limits(max_message_bytes: int) -> tuple[tuple[str, int], ...]:
    """Channel options that limit message size in both directions."""
    return (
        ("grpc.max_receive_message_length", max_message_bytes),
        ("grpc.max_send_message_length", max_message_bytes),
    )


def open_channel(
    address: str, credentials: ClientCredentials = NO_CREDENTIALS, *, max_message_bytes: int = 4 * 2**20
) -> grpc.aio.Channel:
    """A channel to the service at `address`, in one of the forms above.

    It connects on first use; close it with `await channel.close()`. Raises ValueError for an invalid address.
    """
    target, balanced = _target(address)
    mutual_tls = credentials.mutual_tls
    options: tuple[tuple[str, Any], ...] = (
        *message_limits(max_message_bytes),
        *KEEPALIVE_OPTIONS,
        *_RECONNECT_OPTIONS,
        *_common_options(credentials),
        *(_BALANCED_OPTIONS if balanced else ()),
    )

    def connect() -> grpc.aio.Channel:
        if mutual_tls is None:
            channel = grpc.aio.insecure_channel(target, options=options)
        else:
            channel = grpc.aio.secure_channel(target, mutual_tls.client_credentials(), options=options)
        _prepare_calls(channel, credentials)
        return channel

    if mutual_tls is not None:
        return ReconnectingChannel(connect, mutual_tls.current)
    return ReconnectingChannel(connect) if balanced else connect()


def open_blocking_channel(address: str, credentials: ClientCredentials = NO_CREDENTIALS) -> grpc.Channel:
    """A synchronous channel to host:port for health checks; it does not send the token."""
    options = _common_options(credentials)
    if credentials.mutual_tls is None:
        return grpc.insecure_channel(address, options=options)
    return grpc.secure_channel(address, credentials.mutual_tls.client_credentials(), options=options)


def _common_options(credentials: ClientCredentials) -> tuple[tuple[str, Any], ...]:
    return (
        # Otherwise channels in one process share connections and their back-off.
        ("grpc.use_local_subchannel_pool", 1),
        ("grpc.enable_http_proxy", 0),
        *((("grpc.ssl_target_name_override", credentials.tls_name),) if credentials.tls_name else ()),
    )


def check_address(address: str) -> str:
    """Validates the address in a settings field and returns it. Raises ValueError."""
    _target(address)
    return address


ServiceAddress = Annotated[str, AfterValidator(check_address)]


def _target(address: str) -> tuple[str, bool]:
    """The target in gRPC's syntax (https://github.com/grpc/grpc/blob/master/doc/naming.md), and whether to balance."""
    if dns := _DNS.fullmatch(address):
        _host_and_port(dns["name"])
        return address, True
    if "," not in address:
        _host_and_port(address)
        return address, False
    versions = {_ip_version(part.strip()) for part in address.split(",")}
    if len(versions) > 1:
        raise ValueError(f"{address!r} mixes IPv4 and IPv6 addresses; a list must use one of them")
    return f"ipv{versions.pop()}:" + ",".join(part.strip() for part in address.split(",")), True


def _ip_version(address: str) -> int:
    host, _ = _host_and_port(address)
    try:
        return ipaddress.ip_address(host.strip("[]")).version
    except ValueError:
        raise ValueError(
            f"{host!r} is not an IP address; a list takes IP addresses, a name with several is written dns:///{address}"
        ) from None


def _host_and_port(address: str) -> tuple[str, int]:
    found = _HOST_PORT.fullmatch(address)
    if found is None or not 0 < int(found["port"]) < 65_536:
        raise ValueError(f"{address!r} has to be host:port, dns:///name:port, or a comma-separated list of IP:port")
    return found["host"], int(found["port"])


class _KeepsStatus:
    """Wraps gRPC's internal call object so that a failed write does not replace the status that the server sent.

    A server may refuse a stream that is still being sent. Its status then races with the failed write, and gRPC lets
    the latter win: "Internal error from Core" instead of the reason (https://github.com/grpc/grpc/issues/36066). A
    write fails only because the call has ended or is about to, so the status has arrived or will.
    """

    def __init__(self, call: Any) -> None:
        self._call = call

    def __getattr__(self, name: str) -> Any:
        return getattr(self._call, name)

    def set_internal_error(self, reason: str) -> None:
        """Called when a write has failed; its caller goes on to wait for the status."""


def _prepare_calls(channel: Any, credentials: ClientCredentials) -> None:
    """Makes every call of `channel` send the credentials, and bidirectional streams report the server's status."""
    for kind in ("unary_unary", "unary_stream", "stream_unary", "stream_stream"):
        setattr(channel, kind, _prepared(getattr(channel, kind), credentials, keep_status=kind == "stream_stream"))


def _prepared(method: Callable[..., Any], credentials: ClientCredentials, *, keep_status: bool) -> Callable[..., Any]:
    def make(*arguments: Any, **options: Any) -> Any:
        begin = method(*arguments, **options)

        def call(*call_arguments: Any, metadata: Any = None, **call_options: Any) -> Any:
            sent = (*(metadata or ()), *credentials.metadata())
            started = begin(*call_arguments, metadata=sent, **call_options)
            if keep_status:
                started._cython_call = _KeepsStatus(started._cython_call)
            return started

        return call

    return make
