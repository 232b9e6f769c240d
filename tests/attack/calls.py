"""gRPC calls with bytes as they are: nothing on the attacker's side checks what is sent."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

import grpc

from tests.attack.target import CLIENT_SECONDS, Target

_OPTIONS = (
    ("grpc.enable_http_proxy", 0),
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.max_receive_message_length", 16 * 2**20),
)


@contextmanager
def open_channels(target: Target) -> Iterator[dict[str, grpc.Channel]]:
    """A channel to each model service, by its name."""
    with ExitStack() as cleanup:
        services = target.services().items()
        yield {name: cleanup.enter_context(grpc.insecure_channel(at, options=_OPTIONS)) for name, at in services}


def call(
    channel: grpc.Channel,
    method: str,
    messages: Sequence[bytes],
    *,
    streams: bool = True,
    seconds: float = CLIENT_SECONDS,
) -> str:
    """Sends messages, takes everything that comes back, and returns the name of the status.

    Args:
        method: As in "/lyra.v1.LanguageModel/Generate".
        streams: Whether the method takes a stream and answers with one.
    """
    try:
        if streams:
            for _ in channel.stream_stream(method, None, None)(iter(messages), timeout=seconds):
                pass
        else:
            channel.unary_unary(method, None, None)(messages[0], timeout=seconds)
    except grpc.RpcError as error:
        code: grpc.StatusCode = error.code()
        return code.name
    return "OK"
