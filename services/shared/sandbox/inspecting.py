"""Detects what a file is from its bytes, never from its name. Runs in the sandbox."""

from typing import Any, BinaryIO

import av
from av.error import FFmpegError

from model_core.audio.containers import file_size
from model_core.audio.probe import probe
from model_core.errors import InvalidInput
from model_core.vision.image import decode_image
from model_core.vision.video import probe_video

_IMAGE_MAGIC = {b"\xff\xd8\xff": "jpeg", b"\x89PNG\r\n\x1a\n": "png"}
_VIDEO_CONTAINERS = {"mov,mp4,m4a,3gp,3g2,mj2": "mp4", "matroska,webm": "webm"}
# Picture formats in an mp4 container (ISO/IEC 23008-12), which FFmpeg would read as videos of one frame.
_AVIF_BRANDS, _HEIF_BRANDS = (b"avif", b"avis"), (b"heic", b"heix", b"heim", b"heis", b"hevc", b"mif1", b"msf1")
_HEAD_BYTES = 64


def inspect(
    source: BinaryIO,
    *,
    field: str,
    max_image_bytes: int,
    max_image_pixels: int,
    max_video_pixels: int,
) -> dict[str, Any]:
    """Inspects a file, and decodes enough of it to determine whether it can be used: the whole of a picture, the first
    second of a recording, the first frame of a video without sound.

    Returns:
        kind (audio, video or image), container, codec, seconds, channels, sample_rate, as in MediaRecord.

    Raises:
        InvalidInput: The format is not supported, the file is broken, or it is a picture over a limit.
    """
    head = source.read(_HEAD_BYTES)
    image = _image_format(head, field)
    if image is not None:
        size = file_size(source)
        if size > max_image_bytes:
            raise InvalidInput(field, f"{size:,} bytes are over the limit of {max_image_bytes:,} bytes for a picture")
        source.seek(0)
        decode_image(source.read(), max_pixels=max_image_pixels, field=field)
        return {"kind": "image", "container": image}
    try:
        found = probe(source, field)
    except InvalidInput:
        video = _silent_video(source, field, max_video_pixels)
        if video is None:
            raise
        return video
    return {
        "kind": "video" if found.video else "audio",
        "container": found.container,
        "codec": found.codec,
        "seconds": found.seconds,
        "channels": found.channels,
        "sample_rate": found.sample_rate,
    }


def _image_format(head: bytes, field: str) -> str | None:
    """Format of a supported picture; None if it is not a picture. Raises InvalidInput for other picture formats."""
    for magic, name in _IMAGE_MAGIC.items():
        if head.startswith(magic):
            return name
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "webp"
    if head[4:8] == b"ftyp" and head[8:12] in (*_AVIF_BRANDS, *_HEIF_BRANDS):
        name = "an AVIF" if any(brand in head for brand in _AVIF_BRANDS) else "a HEIF"
        raise InvalidInput(field, f"is {name} picture; supported are JPEG, PNG and WebP")
    return None


def _silent_video(source: BinaryIO, field: str, max_pixels: int) -> dict[str, Any] | None:
    """Inspects a video without an audio track; None if the source is anything else.

    Raises:
        InvalidInput: Its frames cannot be decoded.
    """
    # Only these: playlists and the like could make FFmpeg open other files or URLs.
    only = {"format_whitelist": ",".join(_VIDEO_CONTAINERS)}
    source.seek(0)
    try:
        with av.open(source, "r", container_options=only, metadata_errors="replace") as container:
            name = _VIDEO_CONTAINERS.get(container.format.name)
            if name is None or not container.streams.video or container.streams.audio:
                return None
            seconds = container.duration / av.time_base if container.duration else None
    except FFmpegError:
        return None
    codec = probe_video(source, max_pixels=max_pixels, field=field)
    return {"kind": "video", "container": name, "codec": codec, "seconds": seconds}
