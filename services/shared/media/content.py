"""Detects what a file is from its bytes, never from its name or what a client claims."""

from dataclasses import dataclass
from typing import BinaryIO

from services.shared.media.records import Kind
from services.shared.sandbox.decoders import Decoders
from services.shared.sandbox.settings import VisionLimits
from services.shared.service_errors import InvalidInput


@dataclass(frozen=True, slots=True)
class Content:
    """The detected properties of a file; see MediaRecord."""

    kind: Kind
    container: str
    codec: str | None = None
    seconds: float | None = None
    channels: int | None = None
    sample_rate: int | None = None


def inspect(decoders: Decoders, source: bytes | BinaryIO, limits: VisionLimits, *, field: str, tenant: str) -> Content:
    """Detects what a file is and checks that it can be used, in a sandboxed process.

    Pictures are decoded completely, as for a chat; of anything else only the beginning is, however long it is.

    Args:
        source: The bytes, or a seekable file, which stays open. Errors from reading it are passed on.
        limits: Of pictures, and of videos without sound, which only chats can use.
        field: Name of the value in errors.
        tenant: For the fair queue of decoders.

    Raises:
        InvalidInput: The format is not supported, or the file is broken or over a limit.
        Overloaded, Unavailable: See `Decoders`.
    """
    content = Content(**decoders.inspect(source, field=field, limits=limits, tenant=tenant))
    if content.kind == "video" and content.channels is None:
        _check_silent_video(content, limits, field)
    return content


def _check_silent_video(content: Content, limits: VisionLimits, field: str) -> None:
    if content.seconds is not None and content.seconds > limits.max_video_seconds:
        text = f"{content.seconds:,.0f} s are over the limit of {limits.max_video_seconds:,.0f} s for a video"
        raise InvalidInput(field, f"{text} without sound")
