"""The tasks of a child: each yields items of facts and bytes, and returns final facts.

The decoders are plain functions of model_core. Shapes: S samples.
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

FIELD = "media"  # replaced by the parent


def run_inspection(source: BinaryIO, **limits: Any) -> Task:
    """Inspects a file; no items."""
    yield from ()
    return inspect(source, field=FIELD, **limits)


def run_audio(source: BinaryIO, *, max_seconds: float, min_seconds: float, of_video: bool, check_first: bool) -> Task:
    """Audio as blocks of [S] float32 at 16 kHz; returns whether the file is truncated.

    Args:
        of_video: A file without an audio track yields nothing instead of an error.
        check_first: Adds up the packets first, to refuse recordings over the limit at once.
    """
    if of_video and not has_audio(source, FIELD):
        return {"truncated": False}
    if check_first:
        check_duration(source, max_seconds, FIELD)
    with open_audio(source, max_seconds=max_seconds, field=FIELD, min_seconds=min_seconds) as audio:
        for block_S in audio:
            yield {}, block_S.tobytes()
        return {"truncated": audio.truncated}


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
    "sound": run_audio,
    "picture": run_picture,
    "frames": run_frames,
}
