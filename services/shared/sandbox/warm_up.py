"""Decodes a small file of each kind: imports all that a child needs (it cannot open files) and touches its memory.

A child shares memory with the zygote until it writes to it (copy on write). Pages that it touches while it waits need
not be copied once it has a file.
"""

import functools
import io
import wave

from PIL import Image, MpoImagePlugin

from services.shared.sandbox.tasks import TASKS

_ORIENTATION = 0x0112
_SMALL = {"max_image_bytes": 4_096, "max_image_pixels": 64, "max_video_pixels": 64}


def warm_up() -> None:
    """To be called once, in the zygote."""
    for picture in (_picture("PNG"), _picture("WEBP"), _picture("JPEG")):
        _exhaust("picture", picture, max_pixels=64)
    _exhaust("sound", _recording(), max_seconds=1.0, min_seconds=0.1, of_video=False, check_first=True)
    prefault()
    assert MpoImagePlugin.MpoImageFile.format == "MPO"  # imported for JPEG files with several pictures


def prefault() -> None:
    """To be called in each child while it waits for a file."""
    _exhaust("inspect", _recording(), **_SMALL)
    _exhaust("picture", _picture("JPEG"), max_pixels=64)


@functools.cache
def _picture(name: str) -> bytes:
    exif = Image.Exif()
    exif[_ORIENTATION] = 6
    file = io.BytesIO()
    Image.new("RGB" if name == "JPEG" else "RGBA", (8, 8)).save(file, name, exif=exif)
    return file.getvalue()


@functools.cache
def _recording() -> bytes:
    file = io.BytesIO()
    with wave.open(file, "wb") as writer:
        writer.setnchannels(2)
        writer.setsampwidth(2)
        writer.setframerate(48_000)
        writer.writeframes(bytes(4 * 4_800))
    return file.getvalue()


def _exhaust(task: str, data: bytes, **arguments: object) -> None:
    for _ in TASKS[task](io.BytesIO(data), **arguments):
        pass
