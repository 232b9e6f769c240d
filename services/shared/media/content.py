"""What bytes are, told by the bytes: never by a file's name or what a client says of it."""

from dataclasses import dataclass
from typing import BinaryIO

from services.shared.media.records import Kind
from services.shared.sandbox.decoders import Decoders
from services.shared.sandbox.settings import VisionLimits
from services.shared.service_errors import InvalidInput


@dataclass(frozen=True, slots=True)
class Content:
    """As in MediaRecord."""

    kind: Kind
    container: str
    codec: str | None = None
    seconds: float | None = None
    channels: int | None = None
    sample_rate: int | None = None


def inspect(decoders: Decoders, source: bytes | BinaryIO, limits: VisionLimits, *, field: str, tenant: str) -> Content:
    """Finds out what a file is, and that it can be used: in a process of its own, a picture is decoded as a chat does
    it; of all else the beginning is, however long it is.

    Args:
        source: Its bytes, or a seekable file, which stays open. What reading it raises comes through.
        limits: Of pictures, and of videos without sound, which are good for a chat alone.
        field: What errors call the value.
        tenant: Whose turn it is where others wait.

    Raises:
        InvalidInput: It is none of the kinds that are taken, broken, or over a limit.
        Overloaded, Unavailable: as `Decoders`.
    """
    content = Content(**decoders.inspect(source, field=field, limits=limits, tenant=tenant))
    if content.kind == "video" and content.channels is None:
        _check_silent_video(content, limits, field)
    return content


def _check_silent_video(content: Content, limits: VisionLimits, field: str) -> None:
    if content.seconds is not None and content.seconds > limits.max_video_seconds:
        text = f"{content.seconds:,.0f} s are over the limit of {limits.max_video_seconds:,.0f} s for a video"
        raise InvalidInput(field, f"{text} without sound")
