"""Sandboxed decoders: `inspect`, `audio`, `picture` and `frames`. They block; use `run` from asyncio.

Shapes: S samples.
"""

import asyncio
import math
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from services.shared import telemetry
from services.shared.sandbox.cancellation import Cancellation
from services.shared.sandbox.pool import RESERVE, Pool
from services.shared.sandbox.queueing import ThreadFairQueue
from services.shared.sandbox.session import ChildLost, DecodingSession, Facts, Job, Source, Undecodable, outcome_of
from services.shared.sandbox.settings import MIB, DecoderSettings, VisionLimits
from services.shared.service_errors import Unavailable

SAMPLE_RATE = 16_000
MIN_AUDIO_SECONDS = 0.1

_ATTEMPTS = 2
_MAX_THREADS = 128
_VIDEO_THREADS = 4  # as many as model_core.vision.video starts
_SECONDS_PER_SECOND = 0.01  # of decoding per second of audio; 0.001 is typical
_SLACK_SECONDS = 1.0  # of audio that may arrive beyond the limit before that is noticed
_CHANNELS = 3  # RGB
_MAX_NAME_CHARACTERS = 40

Mono = NDArray[np.float32]
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Picture:
    """A picture or frame as RGB, row by row."""

    width: int
    height: int
    rgb: bytearray


class Decoders:
    """Decodes users' media in sandboxed processes. May be shared by threads.

    Methods raise InvalidInput if the file cannot be decoded or is over a limit, Overloaded if the queue is full,
    Unavailable if no process can be created, and Cancelled. Errors from reading a binary file are passed on.
    """

    def __init__(self, settings: DecoderSettings) -> None:
        self._settings = settings
        self.pool = Pool(settings.decoder_memory_mib * MIB, min(RESERVE, settings.decoder_processes))
        self._queue = ThreadFairQueue(settings.decoder_processes, settings.decoder_waiting)
        threads = min(_MAX_THREADS, settings.decoder_processes + settings.decoder_waiting)
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="decoding")

    def start(self) -> None:
        """Starts the processes in advance, so that the first file need not wait for them."""
        self.pool.start()

    def close(self) -> None:
        """Ends all processes."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        self.pool.close()

    async def run(self, work: Callable[[Cancellation], T]) -> T:
        """Calls `work` in a thread. If this is cancelled, the child is killed before control returns."""
        cancellation = Cancellation()
        job = self._threads.submit(work, cancellation)
        result = asyncio.wrap_future(job)
        try:
            return await asyncio.shield(result)
        except asyncio.CancelledError:
            if not job.cancel():
                cancellation.cancel()
                await asyncio.wait([result])
                if not result.cancelled():
                    result.exception()  # retrieved, so that it is not logged
            raise

    def inspect(
        self,
        source: Source,
        *,
        field: str,
        limits: VisionLimits,
        tenant: str = "",
        cancellation: Cancellation | None = None,
    ) -> Facts:
        """The properties of a file: the result of `inspecting.inspect`, validated."""
        arguments = {
            "max_image_bytes": limits.max_image_bytes,
            "max_image_pixels": limits.max_image_pixels,
            "max_video_pixels": limits.max_video_pixels,
        }
        job = Job(task="inspect", arguments=arguments, field=field, seconds=self._settings.decoder_seconds)
        stream = self._stream(job, source, tenant, cancellation)
        try:
            while True:
                next(stream)
        except StopIteration as end:
            return _inspected(end.value, field)

    def audio(
        self,
        source: Source,
        *,
        max_seconds: float,
        field: str,
        tenant: str = "",
        cancellation: Cancellation | None = None,
        min_seconds: float = MIN_AUDIO_SECONDS,
        of_video: bool = False,
        check_first: bool = False,
    ) -> "DecodedAudio":
        """A recording in blocks, with the arguments of `model_core.audio.decoding.open_audio` and `tasks.run_audio`.

        Unlike with `open_audio`, errors are raised while it is read.
        """
        arguments = {
            "max_seconds": max_seconds,
            "min_seconds": min_seconds,
            "of_video": of_video,
            "check_first": check_first,
        }
        job = Job(
            task="sound",
            arguments=arguments,
            field=field,
            seconds=self._settings.decoder_seconds + _SECONDS_PER_SECOND * max_seconds,
            max_bytes=int((max_seconds + _SLACK_SECONDS) * SAMPLE_RATE) * np.dtype(np.float32).itemsize,
        )
        return DecodedAudio(self._stream(job, source, tenant, cancellation), field)

    def samples(self, source: Source, **options: Any) -> Mono:
        """A whole recording as [S] float32 at 16 kHz; arguments as for `audio`. Rejects long ones at once."""
        with self.audio(source, check_first=True, **options) as audio:
            return np.concatenate([*audio, np.zeros(0, np.float32)])

    def picture(
        self,
        source: Source,
        *,
        max_pixels: int,
        field: str = "image",
        tenant: str = "",
        cancellation: Cancellation | None = None,
    ) -> Picture:
        """The pixels of a picture, as decoded by `model_core.vision.image.decode_image`."""
        job = Job(
            task="picture",
            arguments={"max_pixels": max_pixels},
            field=field,
            seconds=self._settings.decoder_seconds,
            max_bytes=max_pixels * _CHANNELS,
        )
        (picture,) = self._pictures(job, source, tenant, cancellation, 1)
        return picture

    def frames(
        self,
        source: Source,
        *,
        max_frames: int,
        max_seconds: float,
        max_pixels: int,
        max_decoding_seconds: float,
        field: str = "video",
        tenant: str = "",
        cancellation: Cancellation | None = None,
    ) -> list[Picture]:
        """Frames of a video; arguments and result as for `model_core.vision.video.sample_frames`."""
        arguments = {
            "max_frames": max_frames,
            "max_seconds": max_seconds,
            "max_pixels": max_pixels,
            "max_decoding_seconds": max_decoding_seconds,
        }
        job = Job(
            task="frames",
            arguments=arguments,
            field=field,
            seconds=max(self._settings.decoder_seconds, max_decoding_seconds),
            threads=_VIDEO_THREADS,
            max_bytes=max_frames * max_pixels * _CHANNELS,
        )
        return self._pictures(job, source, tenant, cancellation, max_frames)

    def _pictures(
        self, job: Job, source: Source, tenant: str, cancellation: Cancellation | None, max_pictures: int
    ) -> list[Picture]:
        pictures: list[Picture] = []
        for facts, rgb in self._stream(job, source, tenant, cancellation):
            width, height = facts.get("width"), facts.get("height")
            if not (isinstance(width, int) and isinstance(height, int)) or min(width, height) <= 0:
                raise Undecodable(job.field, "crash")
            if width * height * _CHANNELS != len(rgb) or len(pictures) == max_pictures:
                raise Undecodable(job.field, "crash")
            pictures.append(Picture(width, height, rgb))
        if not pictures:
            raise Undecodable(job.field, "crash")
        return pictures

    def _stream(
        self, job: Job, source: Source, tenant: str, cancellation: Cancellation | None
    ) -> Generator[tuple[Facts, bytearray], None, Facts]:
        """The items of a job. A child lost for a reason unrelated to the file is replaced once."""
        cancellation = cancellation or Cancellation()
        error: BaseException | None = None
        try:
            with self._queue.slot(tenant, cancellation):
                for attempts_left in reversed(range(_ATTEMPTS)):
                    session = DecodingSession(self.pool, job)
                    try:
                        return (yield from session.items(source, cancellation))
                    except ChildLost as lost:
                        if not attempts_left and lost.killed:  # most likely by the kernel, out of memory
                            raise Undecodable(job.field, "crash") from lost
                        if not attempts_left or session.has_output:
                            raise Unavailable("decoder", "the process that decoded the file was lost") from lost
            raise AssertionError("unreachable")
        except BaseException as raised:
            error = raised
            raise
        finally:
            telemetry.DECODINGS.labels(job.task, outcome_of(error)).inc()


class DecodedAudio:
    """A recording in blocks of [S] float32 at 16 kHz, -1 to 1; a context manager, to be read once.

    Attributes:
        seconds: Duration of the blocks so far.
        truncated: Whether the file ends early; valid once it has been read to the end.
    """

    def __init__(self, stream: Generator[tuple[Facts, bytearray], None, Facts], field: str) -> None:
        self._stream = stream
        self._field = field
        self._samples = 0
        self.truncated = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stream.close()

    @property
    def seconds(self) -> float:
        return self._samples / SAMPLE_RATE

    def __iter__(self) -> Iterator[Mono]:
        while True:
            try:
                _, data = next(self._stream)
            except StopIteration as end:
                self.truncated = end.value.get("truncated") is True
                return
            if len(data) % np.dtype(np.float32).itemsize:
                raise Undecodable(self._field, "crash")
            block_S = np.frombuffer(data, np.float32)
            if not (np.abs(block_S) <= 1.0).all():  # also catches NaN
                raise Undecodable(self._field, "crash")
            self._samples += len(block_S)
            yield block_S


def _inspected(facts: Facts, field: str) -> Facts:
    """Validates the types of the facts."""
    texts = {name: facts.get(name) for name in ("kind", "container", "codec")}
    numbers = {name: facts.get(name) for name in ("seconds", "channels", "sample_rate")}
    known = texts["kind"] in ("audio", "video", "image") and isinstance(texts["container"], str)
    plain = all(
        text is None or (isinstance(text, str) and text.isprintable() and len(text) <= _MAX_NAME_CHARACTERS)
        for text in texts.values()
    )
    sensible = all(
        number is None or (isinstance(number, int | float) and math.isfinite(number) and number >= 0)
        for number in numbers.values()
    )
    if not (known and plain and sensible):
        raise Undecodable(field, "crash")
    return texts | numbers
