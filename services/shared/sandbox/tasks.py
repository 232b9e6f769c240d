"""What a child does with its file: each task yields items, a few facts and bytes each, and returns more facts.

The decoders are model_core's, which knows nothing of processes. Shapes: S samples.
"""

from collections.abc import Callable, Generator, Mapping
from typing import Any, BinaryIO

from model_core.audio.decoding import check_duration, open_audio
from model_core.audio.opening import has_audio
from model_core.vision.image import decode_image
from model_core.vision.video import iterate_frames
from services.shared.sandbox.inspecting import inspect

Facts = dict[str, Any]
Task = Generator[tuple[Facts, bytes | memoryview], None, Facts]

FIELD = "media"  # the parent knows better how its user calls it


def run_inspection(source: BinaryIO, **limits: Any) -> Task:
    """What a file is; no items."""
    yield from ()
    return inspect(source, field=FIELD, **limits)


def run_sound(source: BinaryIO, *, max_seconds: float, min_seconds: float, of_video: bool, check_first: bool) -> Task:
    """Sound as blocks of [S] float32 at 16 kHz; returns its length, and whether the file is cut off.

    Args:
        of_video: What has no audio track is no sound, and no error.
        check_first: Adds up the packets first, so that hours too many are refused at once.
    """
    if of_video and not has_audio(source, FIELD):
        return {"truncated": False}
    if check_first:
        check_duration(source, max_seconds, FIELD)
    with open_audio(source, max_seconds=max_seconds, field=FIELD, min_seconds=min_seconds) as sound:
        for block_S in sound:
            yield {}, block_S.tobytes()
        return {"truncated": sound.truncated}


def run_picture(source: BinaryIO, *, max_pixels: int) -> Task:
    """A picture as one item of RGB bytes."""
    image = decode_image(source.read(), max_pixels=max_pixels, field=FIELD)
    yield {"width": image.width, "height": image.height}, image.tobytes()
    return {}


def run_frames(source: BinaryIO, **limits: Any) -> Task:
    """Frames of a video, an item of RGB bytes each."""
    for image in iterate_frames(source, field=FIELD, **limits):
        yield {"width": image.width, "height": image.height}, image.tobytes()
    return {}


TASKS: Mapping[str, Callable[..., Task]] = {
    "inspect": run_inspection,
    "sound": run_sound,
    "picture": run_picture,
    "frames": run_frames,
}
