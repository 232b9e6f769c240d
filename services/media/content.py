"""What bytes are, told by the bytes: never by a file's name or what a client says of it."""

from dataclasses import dataclass
from typing import BinaryIO

import av
from av.error import FFmpegError
from PIL import Image

import model_core.errors
from model_core.sound.containers import Window
from model_core.sound.probe import probe
from services.common.errors import InvalidInput
from services.media.records import Kind

_IMAGE_MAGIC = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n")
_IMAGE_FORMATS = ("JPEG", "PNG", "WEBP")
_VIDEO_CONTAINERS = {"mov,mp4,m4a,3gp,3g2,mj2": "mp4", "matroska,webm": "webm"}


@dataclass(frozen=True, slots=True)
class Content:
    """As in MediaRecord."""

    kind: Kind
    container: str
    codec: str | None = None
    seconds: float | None = None
    channels: int | None = None
    sample_rate: int | None = None


def inspect(source: BinaryIO, field: str) -> Content:
    """Looks at a file's headers and decodes its first second, however long it is.

    Args:
        source: Seekable; stays open. What reading it raises comes through.
        field: What errors call the value.

    Raises:
        InvalidInput: It is none of the kinds that are taken, or broken.
    """
    head = source.read(16)
    if not head:
        raise InvalidInput(field, "is empty: 0 bytes")
    if head.startswith(_IMAGE_MAGIC) or (head[:4] == b"RIFF" and head[8:12] == b"WEBP"):
        return _picture(source, field)
    try:
        sound = probe(source, field)
    except model_core.errors.InvalidInput as error:
        video = _silent_video(source)
        if video is None:
            raise InvalidInput(field, error.message) from error
        return video
    kind: Kind = "video" if sound.video else "audio"
    return Content(kind, sound.container, sound.codec, sound.seconds, sound.channels, sound.sample_rate)


def _picture(source: BinaryIO, field: str) -> Content:
    source.seek(0)
    try:
        with Image.open(source, formats=_IMAGE_FORMATS) as image:
            return Content("image", str(image.format).lower())
    except Image.DecompressionBombError as error:
        raise InvalidInput(field, "has more pixels than are taken") from error
    except (OSError, SyntaxError, ValueError) as error:  # what Pillow's readers raise for broken headers
        raise InvalidInput(field, "is no JPEG, PNG or WebP file that can be read") from error


def _silent_video(source: BinaryIO) -> Content | None:
    """What a video without a sound track is; None where the source is something else."""
    # Only these are opened: playlists and the like could make FFmpeg open other files or addresses.
    only = {"format_whitelist": ",".join(_VIDEO_CONTAINERS)}
    window = Window(source, 0)
    try:
        with av.open(window, "r", container_options=only, metadata_errors="replace") as container:
            name = _VIDEO_CONTAINERS.get(container.format.name)
            if name and container.streams.video and not container.streams.audio:
                context = container.streams.video[0].codec_context
                seconds = container.duration / av.time_base if container.duration else None
                return Content("video", name, context.codec.canonical_name if context else None, seconds)
    except FFmpegError:
        window.raise_failure()
    return None
