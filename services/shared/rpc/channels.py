"""Client side of the model services: a channel that notices dead peers and comes back soon after they do, and that
spreads its calls over the replicas that are well.

Addresses have three forms:

- "host:port": one process, or a balancer of others before several.
- "dns:///name:port": every address that the name has, as of a headless Service of Kubernetes.
- "10.0.0.1:50051,10.0.0.2:50051": these.

The last two are balanced here: calls go round, one replica after the other. Each replica's health is watched
(https://github.com/grpc/grpc/blob/master/doc/health-checking.md), so one that drains or loads gets no call. A name is
looked up anew whenever a replica closes a connection, which servers of ours do every few seconds (`server.py`): that is
how clients find replicas that were added.
"""

import ipaddress
import json
import re
from collections.abc import Callable
from typing import Annotated, Any

import grpc
from pydantic import AfterValidator

from services.shared.rpc.balancing import RenewedChannel
from services.shared.rpc.caller import Caller

NOBODY = Caller()

# A service that died and came back is found again within a second, not after gRPC's usual two minutes of back-off.
_RECONNECT_OPTIONS = (
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
    # In spite of its name: how long an attempt to connect may take at least.
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
    # Which replicas there are changes by the second while they scale; gRPC would ask twice a minute at most.
    ("grpc.dns_min_time_between_resolutions_ms", 1000),
)
_HOST_PORT = re.compile(r"(?P<host>\[[0-9a-fA-F:.]+\]|[^\s,:/\[\]]+):(?P<port>\d{1,5})")
_DNS = re.compile(r"dns://(?P<server>[^/\s]*)/(?P<name>[^/\s]+)")


def message_limits(max_message_bytes: int) -> tuple[tuple[str, int], ...]:
    """Channel options that bound messages in both directions."""
    return (
        ("grpc.max_receive_message_length", max_message_bytes),
        ("grpc.max_send_message_length", max_message_bytes),
    )


def open_channel(address: str, caller: Caller = NOBODY, *, max_message_bytes: int = 4 * 2**20) -> grpc.aio.Channel:
    """A channel to the service at `address`, in one of the forms above, with what `caller` has to show.

    Connects on first use; `await channel.close()` ends it. Raises ValueError for an address of no form.
    """
    target, balanced = _target(address)
    certificates = caller.certificates
    options: tuple[tuple[str, Any], ...] = (
        *message_limits(max_message_bytes),
        *KEEPALIVE_OPTIONS,
        *_RECONNECT_OPTIONS,
        *_common_options(caller),
        *(_BALANCED_OPTIONS if balanced else ()),
    )

    def connect() -> grpc.aio.Channel:
        if certificates is None:
            channel = grpc.aio.insecure_channel(target, options=options)
        else:
            channel = grpc.aio.secure_channel(target, certificates.for_client(), options=options)
        _prepare_calls(channel, caller)
        return channel

    if certificates is not None:
        return RenewedChannel(connect, certificates.current)
    return RenewedChannel(connect) if balanced else connect()


def open_blocking_channel(address: str, caller: Caller = NOBODY) -> grpc.Channel:
    """The same for a check of its health, without an event loop, at host:port."""
    options = _common_options(caller)
    if caller.certificates is None:
        return grpc.insecure_channel(address, options=options)
    return grpc.secure_channel(address, caller.certificates.for_client(), options=options)


def _common_options(caller: Caller) -> tuple[tuple[str, Any], ...]:
    return (
        # Channels in one process would otherwise share connections, and with them their back-off.
        ("grpc.use_local_subchannel_pool", 1),
        ("grpc.enable_http_proxy", 0),
        *((("grpc.ssl_target_name_override", caller.tls_name),) if caller.tls_name else ()),
    )


def check_address(address: str) -> str:
    """`address`, for a field of settings. Raises ValueError that says what an address is."""
    _target(address)
    return address


ServiceAddress = Annotated[str, AfterValidator(check_address)]


def _target(address: str) -> tuple[str, bool]:
    """What gRPC calls it (https://github.com/grpc/grpc/blob/master/doc/naming.md), and whether calls are spread."""
    if dns := _DNS.fullmatch(address):
        _host_and_port(dns["name"])
        return address, True
    if "," not in address:
        _host_and_port(address)
        return address, False
    versions = {_ip_version(part.strip()) for part in address.split(",")}
    if len(versions) > 1:
        raise ValueError(f"{address!r} has IPv4 and IPv6 addresses; a list takes one kind")
    return f"ipv{versions.pop()}:" + ",".join(part.strip() for part in address.split(",")), True


def _ip_version(address: str) -> int:
    host, _ = _host_and_port(address)
    try:
        return ipaddress.ip_address(host.strip("[]")).version
    except ValueError:
        raise ValueError(
            f"{host!r} is no IP address; a list takes IP addresses, a name with several is written dns:///{address}"
        ) from None


def _host_and_port(address: str) -> tuple[str, int]:
    found = _HOST_PORT.fullmatch(address)
    if found is None or not 0 < int(found["port"]) < 65_536:
        raise ValueError(f"{address!r} is not host:port, dns:///name:port, or host:port with commas between")
    return found["host"], int(found["port"])


class _KeepsStatus:
    """Stands before gRPC's own object of a call, so that a failed write does not replace what the server answered.

    A server may refuse a stream that is still being sent. Its status and the failure of the write then meet, and gRPC
    lets the latter win: "Internal error from Core" instead of the reason (https://github.com/grpc/grpc/issues/36066).
    A write fails only because the call has ended or is about to, so its status is there or comes.
    """

    def __init__(self, call: Any) -> None:
        self._call = call

    def __getattr__(self, name: str) -> Any:
        return getattr(self._call, name)

    def set_internal_error(self, reason: str) -> None:
        """Called when a write failed; whoever asked for it waits for the status next."""


def _prepare_calls(channel: Any, caller: Caller) -> None:
    """Has every call of `channel` show who calls, and every streaming one report the status that its server sent."""
    for kind in ("unary_unary", "unary_stream", "stream_unary", "stream_stream"):
        setattr(channel, kind, _prepared(getattr(channel, kind), caller, keep_status=kind == "stream_stream"))


def _prepared(method: Callable[..., Any], caller: Caller, *, keep_status: bool) -> Callable[..., Any]:
    def make(*arguments: Any, **options: Any) -> Any:
        begin = method(*arguments, **options)

        def call(*call_arguments: Any, metadata: Any = None, **call_options: Any) -> Any:
            shown = (*(metadata or ()), *caller.metadata())
            started = begin(*call_arguments, metadata=shown, **call_options)
            if keep_status:
                started._cython_call = _KeepsStatus(started._cython_call)
            return started

        return call

    return make
