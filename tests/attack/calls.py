"""gRPC calls with raw bytes: nothing on the attacker's side validates what is sent."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import grpc

from services.shared.rpc.credentials import SCHEME, TOKEN_METADATA
from tests.attack.target import CLIENT_SECONDS, Target

_OPTIONS = (
    ("grpc.enable_http_proxy", 0),
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.max_receive_message_length", 16 * 2**20),
)


@dataclass(frozen=True, slots=True)
class Service:
    """An open channel to a service, and the metadata sent with each call."""

    channel: grpc.Channel
    metadata: tuple[tuple[str, str], ...]


@contextmanager
def open_services(target: Target, token: str | None = None) -> Iterator[dict[str, Service]]:
    """The model services, by name.

    Args:
        token: Sent with each call, empty for none; None for the stack's own, as an attacker inside it would have.
    """
    shown = target.stack.service_token_file.read_text().strip() if token is None else token
    metadata = ((TOKEN_METADATA, SCHEME + shown),) if shown else ()
    with ExitStack() as cleanup:
        opened = {
            name: cleanup.enter_context(grpc.insecure_channel(at, options=_OPTIONS))
            for name, at in target.services().items()
        }
        yield {name: Service(channel, metadata) for name, channel in opened.items()}


def call(
    service: Service,
    method: str,
    messages: Sequence[bytes],
    *,
    streams: bool = True,
    seconds: float = CLIENT_SECONDS,
) -> str:
    """Sends messages, reads the whole response, and returns the name of the status.

    Args:
        method: As in "/lyra.v1.LanguageModel/Generate".
        streams: Whether the method is bidirectional streaming.
    """
    try:
        if streams:
            for _ in service.channel.stream_stream(method, None, None)(
                iter(messages), timeout=seconds, metadata=service.metadata
            ):
                pass
        else:
            service.channel.unary_unary(method, None, None)(messages[0], timeout=seconds, metadata=service.metadata)
    except grpc.RpcError as error:
        code: grpc.StatusCode = error.code()
        return code.name
    return "OK"
