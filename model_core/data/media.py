"""Media files: read within limits, and decoded to verify that they are complete."""

import io
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from PIL import Image

from model_core.audio.tensors import SAMPLE_RATE, decode_audio
from model_core.data.conversation import Conversation
from model_core.data.data_errors import Reason, SampleError
from model_core.data.picture_size import holds_all_pixels
from model_core.errors import InvalidInput
from model_core.vision.image import FORMATS, decode_image
from model_core.vision.video import sample_frames

_FORMAT_OF_NAME = {".jpg": "JPEG", ".jpeg": "JPEG", ".png": "PNG", ".webp": "WEBP"}
_CHECKED_FRAMES = 8
_SECONDS_SLACK = 0.1  # encoders pad; a larger difference is an error


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Limits on the size of media and on decoding time.

    Attributes:
        file_bytes: Maximum size of a file.
        audio_seconds: Maximum duration of a recording.
        video_seconds: Maximum duration of a video.
        pixels: Maximum pixels (height times width) of an image or frame.
        decoding_seconds: Maximum time to decode one file.
    """

    file_bytes: int = 512 << 20
    audio_seconds: float = 2 * 3600.0
    video_seconds: float = 2 * 3600.0
    pixels: int = 50_000_000
    decoding_seconds: float = 60.0


class TooSlow(Exception):
    """Decoding exceeded its time limit."""


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Raises TooSlow inside the block if it takes longer.

    Implemented with a signal, so it has no effect outside the main thread.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(signum: int, frame: FrameType | None) -> None:
        raise TooSlow

    handler = signal.signal(signal.SIGALRM, stop)
    before, _ = signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, before)
        signal.signal(signal.SIGALRM, handler)


def read_file(sample: str, field: str, root: Path, name: str, limits: Limits) -> bytes:
    """A file below `root`.

    Raises:
        SampleError: the path leaves the folder, the file does not exist, is empty, or exceeds the limit.
    """
    path = root / name
    if not path.resolve().is_relative_to(root.resolve()):
        raise SampleError(sample, field, f"{name!r} is outside the media folder {root}", Reason.OUTSIDE_ROOT)
    if not path.is_file():
        raise SampleError(sample, field, f"{path} is not a file", Reason.MISSING_FILE)
    size = path.stat().st_size
    if not 0 < size <= limits.file_bytes:
        what = f"has {size:,} bytes; files must have 1 to {limits.file_bytes:,} bytes"
        raise SampleError(sample, field, f"{path} {what}", Reason.FILE_SIZE)
    return path.read_bytes()


def audio_seconds(sample: str, field: str, data: bytes, limits: Limits) -> float:
    """Duration of a recording, by decoding all of it. Raises SampleError."""
    with _failures(sample, field, Reason.AUDIO, limits):
        return len(decode_audio(data, max_seconds=limits.audio_seconds, field=field)) / SAMPLE_RATE


def check_image(sample: str, field: str, data: bytes, limits: Limits, *, name: str = "") -> None:
    """Decodes an image completely.

    Args:
        sample, field: Named in errors.
        name: Name of its file; a suffix of another format than the content's is an error.

    Raises:
        SampleError: it cannot be decoded, has too many pixels, or its format does not match its name.
    """
    with _failures(sample, field, Reason.IMAGE, limits):
        try:
            with Image.open(io.BytesIO(data), formats=FORMATS) as image:
                found, (width, height) = image.format, image.size
        except Image.DecompressionBombError as error:
            raise SampleError(sample, field, str(error), Reason.IMAGE_SIZE) from error
        except Exception as error:  # broken headers surface as OSError, SyntaxError, ValueError, struct.error ...
            raise InvalidInput(field, "is not a readable JPEG, PNG or WebP file") from error
        if width * height > limits.pixels:
            size = f"{width} x {height} exceeds the limit of {limits.pixels:,} pixels"
            raise SampleError(sample, field, size, Reason.IMAGE_SIZE)
        expected = _FORMAT_OF_NAME.get(Path(name).suffix.lower(), found)
        if found != expected:
            raise SampleError(sample, field, f"{name} contains {found}, not {expected}", Reason.IMAGE_FORMAT)
        decode_image(data, max_pixels=limits.pixels, field=field)
        if not holds_all_pixels(data, found or ""):
            message = f"its header says {width} x {height}, but it contains fewer pixels"
            raise SampleError(sample, field, message, Reason.IMAGE_SIZE)


def check_video(sample: str, field: str, data: bytes, limits: Limits) -> None:
    """Decodes some frames of a video, including the first and last. Raises SampleError."""
    with _failures(sample, field, Reason.VIDEO, limits):
        sample_frames(
            data,
            max_frames=_CHECKED_FRAMES,
            max_seconds=limits.video_seconds,
            max_pixels=limits.pixels,
            max_decoding_seconds=limits.decoding_seconds,
            field=field,
        )


def check_media(conversation: Conversation, limits: Limits) -> None:
    """Decodes all media of a conversation and compares the durations of its recordings. Raises SampleError."""
    for index, data in enumerate(conversation.images):
        check_image(conversation.id, f"images[{index}]", data, limits)
    for index, recording in enumerate(conversation.speech):
        field = f"speech[{index}]"
        seconds = audio_seconds(conversation.id, field, recording.data, limits)
        if abs(seconds - recording.seconds) > _SECONDS_SLACK:
            message = f"is {recording.seconds:.2f} s, but the recording has {seconds:.2f} s"
            raise SampleError(conversation.id, f"{field}.seconds", message, Reason.SECONDS)
    for index, data in enumerate(conversation.videos):
        check_video(conversation.id, f"videos[{index}]", data, limits)


@contextmanager
def _failures(sample: str, field: str, reason: Reason, limits: Limits) -> Iterator[None]:
    try:
        with time_limit(limits.decoding_seconds):
            yield
    except TooSlow as error:
        message = f"decoding exceeds the limit of {limits.decoding_seconds:g} s"
        raise SampleError(sample, field, message, reason) from error
    except SampleError:
        raise
    except InvalidInput as error:
        raise SampleError(sample, field, error.message, reason) from error
