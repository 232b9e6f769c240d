"""What a file is, told by its bytes, never by its name. Runs where users' media are decoded."""

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
# Pictures in the container of mp4 (ISO/IEC 23008-12), which FFmpeg would take for videos of one frame.
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
    """Looks at a file and decodes as much of it as tells whether it can be used: of a picture all, as a chat would do;
    of a recording the first second; of a video without sound the first frame.

    Returns:
        kind (audio, video or image), container, codec, seconds, channels, sample_rate, as MediaRecord has them.

    Raises:
        InvalidInput: It is none of the kinds that are taken, broken, or a picture over a limit.
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
        sound = probe(source, field)
    except InvalidInput:
        video = _silent_video(source, field, max_video_pixels)
        if video is None:
            raise
        return video
    return {
        "kind": "video" if sound.video else "audio",
        "container": sound.container,
        "codec": sound.codec,
        "seconds": sound.seconds,
        "channels": sound.channels,
        "sample_rate": sound.sample_rate,
    }


def _image_format(head: bytes, field: str) -> str | None:
    """Of a picture that is taken; None for what is none. Raises InvalidInput for pictures of other formats."""
    for magic, name in _IMAGE_MAGIC.items():
        if head.startswith(magic):
            return name
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "webp"
    if head[4:8] == b"ftyp" and head[8:12] in (*_AVIF_BRANDS, *_HEIF_BRANDS):
        name = "an AVIF" if any(brand in head for brand in _AVIF_BRANDS) else "a HEIF"
        raise InvalidInput(field, f"is {name} picture; taken are JPEG, PNG and WebP")
    return None


def _silent_video(source: BinaryIO, field: str, max_pixels: int) -> dict[str, Any] | None:
    """What a video without a sound track is; None where the source is something else.

    Raises:
        InvalidInput: Its pictures cannot be decoded.
    """
    # Only these are opened: playlists and the like could make FFmpeg open other files or addresses.
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
