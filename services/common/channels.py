"""Client side of the model services: a channel that notices dead peers and comes back soon after they do."""

from typing import Any

import grpc

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


def message_limits(max_message_bytes: int) -> tuple[tuple[str, int], ...]:
    """Channel options that bound messages in both directions."""
    return (
        ("grpc.max_receive_message_length", max_message_bytes),
        ("grpc.max_send_message_length", max_message_bytes),
    )


def open_channel(address: str, *, max_message_bytes: int = 4 * 2**20) -> grpc.aio.Channel:
    """A channel to the service at `address` ("host:port"). Connects on first use; `await channel.close()` ends it."""
    options = (
        *message_limits(max_message_bytes),
        *KEEPALIVE_OPTIONS,
        *_RECONNECT_OPTIONS,
        # Channels in one process would otherwise share connections, and with them their back-off.
        ("grpc.use_local_subchannel_pool", 1),
        ("grpc.enable_http_proxy", 0),
    )
    channel = grpc.aio.insecure_channel(address, options=options)
    _keep_statuses(channel)
    return channel


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


def _keep_statuses(channel: Any) -> None:
    """Has every streaming call of `channel` report the status that its server sent."""
    stream_stream = channel.stream_stream

    def patched(*arguments: Any, **options: Any) -> Any:
        begin = stream_stream(*arguments, **options)

        def call(*call_arguments: Any, **call_options: Any) -> Any:
            started = begin(*call_arguments, **call_options)
            started._cython_call = _KeepsStatus(started._cython_call)
            return started

        return call

    channel.stream_stream = patched
