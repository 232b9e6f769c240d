"""Files of media: read within limits, and decoded to know that they are whole."""

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
_FRAMES_LOOKED_AT = 8
_SECONDS_SLACK = 0.1  # encoders pad; a longer difference is a wrong figure


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How large a medium may be, and how long decoding it may take.

    Attributes:
        file_bytes: Most bytes of a file.
        audio_seconds: Longest recording.
        video_seconds: Longest video.
        pixels: Most pixels (height times width) of a picture or frame.
        decoding_seconds: Longest time that one file may take to decode.
    """

    file_bytes: int = 512 << 20
    audio_seconds: float = 2 * 3600.0
    video_seconds: float = 2 * 3600.0
    pixels: int = 50_000_000
    decoding_seconds: float = 60.0


class TooSlow(Exception):
    """Decoding took longer than its limit."""


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Raises TooSlow inside the block when it takes longer.

    It is kept by a signal, so in the main thread of a process alone; in another thread it sets no limit.
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
        SampleError: the name leads out of the folder, nothing is there, it is empty or over the limit.
    """
    path = root / name
    if not path.resolve().is_relative_to(root.resolve()):
        raise SampleError(sample, field, f"{name!r} leads out of the media folder {root}", Reason.OUTSIDE_ROOT)
    if not path.is_file():
        raise SampleError(sample, field, f"{path} is no file", Reason.MISSING_FILE)
    size = path.stat().st_size
    if not 0 < size <= limits.file_bytes:
        what = f"has {size:,} bytes; files of 1 to {limits.file_bytes:,} bytes are taken"
        raise SampleError(sample, field, f"{path} {what}", Reason.FILE_SIZE)
    return path.read_bytes()


def audio_seconds(sample: str, field: str, data: bytes, limits: Limits) -> float:
    """How long a recording sounds; all of it is decoded. Raises SampleError."""
    with _failures(sample, field, Reason.AUDIO, limits):
        return len(decode_audio(data, max_seconds=limits.audio_seconds, field=field)) / SAMPLE_RATE


def check_image(sample: str, field: str, data: bytes, limits: Limits, *, name: str = "") -> None:
    """Decodes a picture whole.

    Args:
        sample, field: What errors name.
        name: Of its file; an ending of another format than the bytes have is an error.

    Raises:
        SampleError: it does not decode, has too many pixels, or another format than its name says.
    """
    with _failures(sample, field, Reason.IMAGE, limits):
        try:
            with Image.open(io.BytesIO(data), formats=FORMATS) as image:
                found, (width, height) = image.format, image.size
        except Image.DecompressionBombError as error:
            raise SampleError(sample, field, str(error), Reason.IMAGE_SIZE) from error
        except Exception as error:  # broken headers surface as OSError, SyntaxError, ValueError, struct.error ...
            raise InvalidInput(field, "is no JPEG, PNG or WebP file that can be read") from error
        if width * height > limits.pixels:
            size = f"{width} x {height} is over the limit of {limits.pixels:,} pixels"
            raise SampleError(sample, field, size, Reason.IMAGE_SIZE)
        expected = _FORMAT_OF_NAME.get(Path(name).suffix.lower(), found)
        if found != expected:
            raise SampleError(sample, field, f"{name} holds {found}, not {expected}", Reason.IMAGE_FORMAT)
        decode_image(data, max_pixels=limits.pixels, field=field)
        if not holds_all_pixels(data, found or ""):
            message = f"its header says {width} x {height}, and it holds fewer pixels"
            raise SampleError(sample, field, message, Reason.IMAGE_SIZE)


def check_video(sample: str, field: str, data: bytes, limits: Limits) -> None:
    """Decodes some frames of a video, first and last among them. Raises SampleError."""
    with _failures(sample, field, Reason.VIDEO, limits):
        sample_frames(
            data,
            max_frames=_FRAMES_LOOKED_AT,
            max_seconds=limits.video_seconds,
            max_pixels=limits.pixels,
            max_decoding_seconds=limits.decoding_seconds,
            field=field,
        )


def check_media(conversation: Conversation, limits: Limits) -> None:
    """Decodes everything that a conversation holds, and compares the seconds of its recordings. Raises SampleError."""
    for index, data in enumerate(conversation.images):
        check_image(conversation.id, f"images[{index}]", data, limits)
    for index, recording in enumerate(conversation.speech):
        field = f"speech[{index}]"
        seconds = audio_seconds(conversation.id, field, recording.data, limits)
        if abs(seconds - recording.seconds) > _SECONDS_SLACK:
            message = f"says {recording.seconds:.2f} s where the recording has {seconds:.2f} s"
            raise SampleError(conversation.id, f"{field}.seconds", message, Reason.SECONDS)
    for index, data in enumerate(conversation.videos):
        check_video(conversation.id, f"videos[{index}]", data, limits)


@contextmanager
def _failures(sample: str, field: str, reason: Reason, limits: Limits) -> Iterator[None]:
    try:
        with time_limit(limits.decoding_seconds):
            yield
    except TooSlow as error:
        message = f"takes longer to decode than the limit of {limits.decoding_seconds:g} s"
        raise SampleError(sample, field, message, reason) from error
    except SampleError:
        raise
    except InvalidInput as error:
        raise SampleError(sample, field, error.message, reason) from error
