"""Clips of all open calls, encoded together."""

import asyncio
import time
from collections import deque
from collections.abc import AsyncGenerator
from contextlib import suppress
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from model_core.audio.tensors import SAMPLE_RATE
from services.shared import telemetry
from services.shared.rpc.threads import ModelThread, WorkTime
from services.speech_encoder.backlog import Backlog


class Encoder(Protocol):
    """What of `model_core.speech.encoder.SpeechEncoder` is used here."""

    def encode(self, clips: list[Tensor], adapter: str = "") -> list[Tensor]: ...


@dataclass(frozen=True, slots=True, eq=False)
class _Waiting:
    samples: Tensor
    adapter: str
    tokens: asyncio.Future[Tensor]


class BatchingSpeechEncoder:
    """Gathers the clips that wait while the model is busy, and encodes them in one batch as soon as it is free.

    A call has at most `max_batch_clips` clips in line at a time, so a long recording does not make the short question
    behind it wait for more than a batch or two.

    Args:
        encoder: Turns clips ([samples] each) into speech tokens ([N, E] each).
        thread: Where it runs.
        max_batch_clips: Clips in one batch.
        max_seconds_waiting: Seconds of audio taken in and not encoded yet, over all calls; beyond, calls are refused.
            A single recording is taken even when it alone is longer.
    """

    def __init__(
        self, encoder: Encoder, thread: ModelThread, *, max_batch_clips: int, max_seconds_waiting: float
    ) -> None:
        self._encoder = encoder
        self._thread = thread
        self._max_batch_clips = max_batch_clips
        self._backlog = Backlog(max_seconds_waiting)
        self._line: deque[_Waiting] = deque()
        self._worker: asyncio.Task[None] | None = None

    @property
    def seconds_waiting(self) -> float:
        """Seconds of audio taken in and not encoded yet."""
        return self._backlog.seconds

    async def encode(self, clips: list[Tensor], adapter: str) -> AsyncGenerator[Tensor, None]:
        """Yields the speech tokens [N, E] of each clip, in order. Leaving the iteration drops the clips still in line.

        Raises:
            Overloaded: More audio is waiting than the limit allows.
        """
        lengths = [len(samples) / SAMPLE_RATE for samples in clips]
        if not self._backlog.has_room(sum(lengths)):
            raise self._backlog.overloaded()
        self._backlog.count(sum(lengths))
        remaining = sum(lengths)
        pending: deque[_Waiting] = deque()
        ahead = iter(clips)
        try:
            for seconds in lengths:
                while len(pending) < self._max_batch_clips and (samples := next(ahead, None)) is not None:
                    pending.append(self._enqueue(samples, adapter))
                tokens = await pending[0].tokens
                pending.popleft()
                self._backlog.count(-seconds)
                remaining -= seconds
                yield tokens
        finally:
            self._backlog.count(-remaining)
            for clip in pending:
                clip.tokens.cancel()
                with suppress(ValueError):
                    self._line.remove(clip)

    def _enqueue(self, samples: Tensor, adapter: str) -> _Waiting:
        clip = _Waiting(samples, adapter, asyncio.get_running_loop().create_future())
        self._line.append(clip)
        if self._worker is None or self._worker.done():
            self._worker = asyncio.create_task(self._work())
        return clip

    async def _work(self) -> None:
        while self._line:
            batch = self._next_batch()
            adapter = batch[0].adapter
            samples = [clip.samples for clip in batch]
            started, work = time.monotonic(), WorkTime()
            try:
                results = await self._thread.run(work.of(lambda s=samples, a=adapter: self._encoder.encode(s, a)))  # type: ignore[misc]
            except Exception as error:  # whatever it is, it belongs to those who asked
                for clip in batch:
                    if not clip.tokens.done():
                        clip.tokens.set_exception(error)
                continue
            audio_seconds = sum(len(s) for s in samples) / SAMPLE_RATE
            self._backlog.learn(time.monotonic() - started, audio_seconds)
            telemetry.observe_work("speech_encoder", work.seconds, audio_seconds, len(batch))
            for clip, tokens in zip(batch, results, strict=True):
                if not clip.tokens.done():
                    clip.tokens.set_result(tokens)

    def _next_batch(self) -> list[_Waiting]:
        """The first clip in line and the next ones with its adapter."""
        adapter = self._line[0].adapter
        batch = [clip for clip in self._line if clip.adapter == adapter][: self._max_batch_clips]
        for clip in batch:
            self._line.remove(clip)
        return batch
