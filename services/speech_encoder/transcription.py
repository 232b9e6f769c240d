"""Clips of all open calls, heard together: speech tokens and words."""

import asyncio
import time
from collections import OrderedDict, deque
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol

from model_core.audio.tensors import Clip
from model_core.speech.encoder import EncodedClip, HeardClip
from services.shared import telemetry
from services.shared.rpc.threads import ModelThread, WorkTime
from services.speech_encoder.backlog import Backlog


class Hearer(Protocol):
    """What of `model_core.speech.encoder.SpeechEncoder` is used here."""

    def encode_clips(self, clips: list[Clip], adapters: list[str]) -> list[EncodedClip]: ...

    def hear(self, clips: list[EncodedClip], language: str = "") -> Iterator[HeardClip | None]: ...


@dataclass(slots=True, eq=False)
class _Call:
    """A recording that is being heard. `language` is empty until it was named or heard."""

    tenant: str
    adapter: str
    language: str
    seconds: float  # of its clips that are not heard yet
    begun: bool = False
    pending: deque["_Waiting"] = field(default_factory=deque)  # asked for and not given back yet, in order


@dataclass(frozen=True, slots=True, eq=False)
class _Waiting:
    clip: Clip
    call: _Call
    heard: asyncio.Future[HeardClip]


@dataclass(slots=True, eq=False)
class _Batch:
    """Clips in one language that are written down together."""

    language: str
    clips: list[_Waiting] = field(default_factory=list)
    encoded: list[EncodedClip] = field(default_factory=list)
    work: WorkTime = field(default_factory=WorkTime)
    started: float = field(default_factory=time.monotonic)

    def drop_those_done(self) -> None:
        """Forgets clips that nobody waits for."""
        rows = [row for row, clip in enumerate(self.clips) if not clip.heard.done()]
        self.clips, self.encoded = [self.clips[row] for row in rows], [self.encoded[row] for row in rows]


class TranscriptionBatcher:
    """Gathers clips of all calls: encodes one after the other and, when none waits or the batch is full, writes down in
    one batch what is said in them. While one batch is written, the next is encoded.

    Tenants take turns, clip by clip, so that nobody's long recordings keep others waiting for more than a batch or two.
    Where no more audio may wait, the latest recording of the tenant that has most waiting makes room for a tenant that
    has less, unless it is being heard already.

    Args:
        hearer: Turns clips into speech tokens and words.
        thread: Where it encodes.
        writer: Where it writes down; other work of this thread comes in between its steps.
        max_batch_clips: Clips in one batch; of one call at most so many are in line at a time.
        max_seconds_waiting: Seconds of audio taken in and not heard yet, over all calls; beyond, calls are refused.
    """

    def __init__(
        self,
        hearer: Hearer,
        thread: ModelThread,
        writer: ModelThread,
        *,
        max_batch_clips: int,
        max_seconds_waiting: float,
    ) -> None:
        self._hearer = hearer
        self._thread = thread
        self._writer = writer
        self._max_batch_clips = max_batch_clips
        self._backlog = Backlog(max_seconds_waiting)
        self._calls: list[_Call] = []
        self._lines: OrderedDict[str, deque[_Waiting]] = OrderedDict()
        self._worker: asyncio.Task[None] | None = None
        self._writing = asyncio.Lock()
        self._tasks: set[asyncio.Task[None]] = set()  # referred to until they end

    @property
    def seconds_waiting(self) -> float:
        """Seconds of audio taken in and not heard yet."""
        return self._backlog.seconds

    async def hear(
        self, clips: list[Clip], *, adapter: str, language: str, tenant: str
    ) -> AsyncGenerator[HeardClip, None]:
        """Yields what each clip of a recording holds, in order. Leaving the iteration drops the clips still in line.

        Args:
            clips: Of the recording.
            adapter: Whose projector makes the tokens.
            language: What is spoken; empty to hear it from the first clip with sound, for all.
            tenant: Who asks.

        Raises:
            Overloaded: More audio is waiting than the limit allows, or became so of others' while this call waited.
        """
        call = _Call(tenant, adapter, language, sum(_seconds(clip) for clip in clips))
        self._admit(call)
        ahead = deque(clips)
        try:
            while ahead or call.pending:
                # One at a time until the language is known.
                while ahead and len(call.pending) < (self._max_batch_clips if call.language else 1):
                    self._enqueue(_Waiting(ahead.popleft(), call, asyncio.get_running_loop().create_future()))
                heard = await call.pending[0].heard
                done = call.pending.popleft()
                self._count(call, -_seconds(done.clip))
                call.language = call.language or heard.language
                yield heard
        finally:
            self._leave(call)

    def _admit(self, call: _Call) -> None:
        while not self._backlog.has_room(call.seconds):
            self._make_room_for(call)
        self._backlog.count(call.seconds)
        self._calls.append(call)

    def _make_room_for(self, call: _Call) -> None:
        waiting: dict[str, float] = {}
        for other in self._calls:
            waiting[other.tenant] = waiting.get(other.tenant, 0.0) + other.seconds
        own = waiting.get(call.tenant, 0.0) + call.seconds
        largest = max(waiting, key=lambda tenant: waiting[tenant])
        latest = next((c for c in reversed(self._calls) if c.tenant == largest and not c.begun), None)
        if latest is None or waiting[largest] - latest.seconds < own:
            raise self._backlog.overloaded()
        error = self._backlog.overloaded()
        for clip in latest.pending:
            clip.heard.set_exception(error)
            clip.heard.exception()  # only the first is awaited
        self._leave(latest)

    def _leave(self, call: _Call) -> None:
        """Forgets a call, whatever is left of it; nothing happens the second time."""
        self._count(call, -call.seconds)
        if call in self._calls:
            self._calls.remove(call)
        for clip in call.pending:
            clip.heard.cancel()
        for clip in [clip for clip in self._lines.get(call.tenant, ()) if clip.call is call]:
            self._lines[call.tenant].remove(clip)
        if not self._lines.get(call.tenant, True):
            del self._lines[call.tenant]

    def _count(self, call: _Call, seconds: float) -> None:
        call.seconds += seconds
        self._backlog.count(seconds)

    def _enqueue(self, clip: _Waiting) -> None:
        clip.call.pending.append(clip)
        self._lines.setdefault(clip.call.tenant, deque()).append(clip)
        if self._worker is None or self._worker.done():
            self._worker = asyncio.create_task(self._work())

    async def _work(self) -> None:
        while self._lines:
            # The clip that waits longest for its turn says in which language.
            batch = _Batch(next(iter(self._lines.values()))[0].call.language)
            await self._fill(batch)
            await self._writing.acquire()
            await self._fill(batch)  # with what came while the one before was written
            writing = asyncio.create_task(self._write(batch))
            self._tasks.add(writing)
            writing.add_done_callback(self._tasks.discard)

    async def _fill(self, batch: _Batch) -> None:
        """Encodes clips into a batch until it is full or none waits in its language."""
        while len(batch.clips) < self._max_batch_clips and (clip := self._take_next(batch.language)) is not None:
            encode = partial(self._hearer.encode_clips, [clip.clip], [clip.call.adapter])
            try:
                (encoded,) = await self._thread.run(batch.work.of(encode))
            except Exception as error:  # whatever it is, it belongs to who asked
                if not clip.heard.done():
                    clip.heard.set_exception(error)
                continue
            batch.clips.append(clip)
            batch.encoded.append(encoded)

    async def _write(self, batch: _Batch) -> None:
        """Writes a batch down, then lets the next one be written; stops midway where nobody waits for it any more."""
        try:
            batch.drop_those_done()
            steps = self._writer.iterate(batch.work.of_steps(lambda: self._hearer.hear(batch.encoded, batch.language)))
            async with aclosing(steps) as results:
                heard_in_turn = iter(batch.clips)
                async for heard in results:
                    if all(clip.heard.cancelled() for clip in batch.clips):
                        return
                    if heard is not None and not (asked := next(heard_in_turn)).heard.done():
                        asked.heard.set_result(heard)
        except Exception as error:  # as above
            for clip in batch.clips:
                if not clip.heard.done():
                    clip.heard.set_exception(error)
            return
        finally:
            self._writing.release()
        audio_seconds = sum(_seconds(clip.clip) for clip in batch.clips)
        self._backlog.learn(time.monotonic() - batch.started, audio_seconds)
        telemetry.observe_work("speech_encoder", batch.work.seconds, audio_seconds, len(batch.clips))

    def _take_next(self, language: str) -> _Waiting | None:
        """The next clip in a language, of the tenant that waits longest for its turn; None where there is none."""
        for line in self._lines.values():
            clip = next((clip for clip in line if clip.call.language == language), None)
            if clip is not None:
                self._take(clip)
                return clip
        return None

    def _take(self, clip: _Waiting) -> None:
        """Out of its line, whose tenant goes to the end: the others come first."""
        clip.call.begun = True
        line = self._lines.pop(clip.call.tenant)
        line.remove(clip)
        if line:
            self._lines[clip.call.tenant] = line


def _seconds(clip: Clip) -> float:
    return clip.end_seconds - clip.start_seconds
