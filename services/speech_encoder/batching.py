"""Gathers the clips of all calls into batches; a strategy defines what a batch is and how it runs."""

import asyncio
import time
from collections import OrderedDict, deque
from collections.abc import AsyncGenerator, Sequence
from contextlib import AbstractContextManager, aclosing
from dataclasses import dataclass, field
from functools import partial
from itertools import zip_longest
from typing import Generic, Protocol, TypeVar

from model_core.audio.tensors import Clip
from services.shared import telemetry
from services.shared.content_cache import ContentCache
from services.shared.rpc.batching import GatherWindow
from services.shared.rpc.threads import WorkTimer
from services.speech_encoder.backlog import Backlog

Prepared = TypeVar("Prepared")
Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class ClipOptions:
    """How the clips of a recording are processed.

    Attributes:
        adapter: Whose projector makes the speech tokens.
        language: Code of the spoken language; empty if it is unknown or irrelevant.
    """

    adapter: str
    language: str = ""


class BatchStrategy(Protocol[Prepared, Result]):
    """What the clips of a batch have in common, and how they become results."""

    def batch_key(self, options: ClipOptions) -> str:
        """Only clips with equal keys share a batch."""
        ...

    def max_in_flight(self, options: ClipOptions, max_batch_clips: int) -> int:
        """How many clips of one recording may be queued or running at the same time, at most `max_batch_clips`."""
        ...

    async def prepare(self, clip: Clip, options: ClipOptions, work: WorkTimer) -> Prepared:
        """Work on a single clip, done while the previous batch is running. An error concerns only this clip."""
        ...

    def run(self, clips: list[Prepared], key: str, work: WorkTimer) -> AsyncGenerator[Result | None, None]:
        """Runs a batch: yields one result per clip, in order, and None wherever it may be abandoned.

        An error concerns all of its clips.
        """
        ...

    def options_after(self, options: ClipOptions, result: Result) -> ClipOptions:
        """Options for the rest of a recording, given the result of one of its clips."""
        ...


@dataclass(slots=True, eq=False)
class _Call(Generic[Prepared, Result]):
    """A recording that is being processed."""

    tenant: str
    options: ClipOptions
    seconds: float  # of its clips without a result
    started: bool = False
    pending: "deque[_Entry[Prepared, Result]]" = field(default_factory=deque)  # queued or running, in order


@dataclass(frozen=True, slots=True, eq=False)
class _Entry(Generic[Prepared, Result]):
    """A clip that is queued or running, or whose result another call computes or has computed."""

    clip: Clip
    call: _Call[Prepared, Result]
    result: asyncio.Future[Result]
    key: bytes | None  # in the cache; None not to use it


@dataclass(slots=True, eq=False)
class _Batch(Generic[Prepared, Result]):
    key: str
    entries: list[_Entry[Prepared, Result]] = field(default_factory=list)
    prepared: list[Prepared] = field(default_factory=list)
    work: WorkTimer = field(default_factory=WorkTimer)
    started: float = field(default_factory=time.monotonic)

    def drop_abandoned(self) -> None:
        """Removes clips whose callers have left."""
        rows = [row for row, entry in enumerate(self.entries) if not entry.result.done()]
        self.entries, self.prepared = [self.entries[row] for row in rows], [self.prepared[row] for row in rows]


class ClipBatcher(Generic[Prepared, Result]):
    """Batches the clips that arrive while a batch is running, and runs them together as soon as it ends.

    If no batch is running, one waits a moment for recordings that are being decoded.

    Tenants take turns, clip by clip, and a call has at most `max_batch_clips` clips in flight, so a long recording
    delays others by no more than two batches. If the limit of waiting audio is reached, the latest recording of the
    tenant with the most audio waiting is evicted for a tenant with less, unless it has started.

    Args:
        strategy: Defines what a batch is.
        max_batch_clips: Maximum clips in a batch.
        max_seconds_waiting: Maximum seconds of audio accepted and not processed yet, of all calls; further calls are
            rejected. A single recording is accepted even if it is longer than that.
        window: How long a batch waits for further recordings.
        cache: Results by key, for calls that have keys.
    """

    def __init__(
        self,
        strategy: BatchStrategy[Prepared, Result],
        *,
        max_batch_clips: int,
        max_seconds_waiting: float,
        window: GatherWindow,
        cache: ContentCache[Result] | None = None,
    ) -> None:
        self._strategy = strategy
        self._window = window
        self._cache = cache
        self._max_batch_clips = max_batch_clips
        self._backlog = Backlog(max_seconds_waiting)
        self._calls: list[_Call[Prepared, Result]] = []
        self._queues: OrderedDict[str, deque[_Entry[Prepared, Result]]] = OrderedDict()  # by tenant, next first
        self._gatherer: asyncio.Task[None] | None = None
        self._running = asyncio.Lock()
        self._last_ended = 0.0
        self._tasks: set[asyncio.Task[None]] = set()  # referenced until they end

    @property
    def seconds_waiting(self) -> float:
        """Seconds of audio accepted and not processed yet."""
        return self._backlog.seconds

    def arriving(self) -> AbstractContextManager[None]:
        """Announces a recording during a `with` body that ends right before `process` is called."""
        return self._window.arriving()

    async def process(
        self, clips: list[Clip], options: ClipOptions, *, tenant: str, keys: Sequence[bytes] = ()
    ) -> AsyncGenerator[Result, None]:
        """Yields the result of each clip of a recording, in order. Ending the iteration drops clips still queued.

        Args:
            clips: Of the recording.
            options: How they are processed.
            tenant: Whose recording it is.
            keys: Of the clips' results in the cache, one a clip; empty not to use it.

        Raises:
            Overloaded: Too much audio is waiting, or this call was evicted from the queue.
        """
        call = _Call[Prepared, Result](tenant, options, sum(_seconds(clip) for clip in clips))
        self._admit(call)
        ahead = deque(zip_longest(clips, keys))
        try:
            while ahead or call.pending:
                while ahead and len(call.pending) < self._strategy.max_in_flight(call.options, self._max_batch_clips):
                    clip, key = ahead.popleft()
                    self._find_or_enqueue(_Entry(clip, call, asyncio.get_running_loop().create_future(), key))
                result = await call.pending[0].result
                done = call.pending.popleft()
                self._count(call, -_seconds(done.clip))
                call.options = self._strategy.options_after(call.options, result)
                yield result
        finally:
            self._leave(call)

    def _admit(self, call: _Call[Prepared, Result]) -> None:
        while not self._backlog.has_room(call.seconds):
            self._make_room_for(call)
        self._backlog.count(call.seconds)
        self._calls.append(call)

    def _make_room_for(self, call: _Call[Prepared, Result]) -> None:
        waiting: dict[str, float] = {}
        for other in self._calls:
            waiting[other.tenant] = waiting.get(other.tenant, 0.0) + other.seconds
        own = waiting.get(call.tenant, 0.0) + call.seconds
        largest = max(waiting, key=lambda tenant: waiting[tenant])
        latest = next((c for c in reversed(self._calls) if c.tenant == largest and not c.started), None)
        if latest is None or waiting[largest] - latest.seconds < own:
            raise self._backlog.overloaded()
        error = self._backlog.overloaded()
        for entry in latest.pending:
            if not entry.result.done():
                entry.result.set_exception(error)
                entry.result.exception()  # only the first is awaited
        self._leave(latest)

    def _leave(self, call: _Call[Prepared, Result]) -> None:
        """Removes a call and its clips. Idempotent."""
        self._count(call, -call.seconds)
        if call in self._calls:
            self._calls.remove(call)
        for entry in call.pending:
            entry.result.cancel()
        for entry in [entry for entry in self._queues.get(call.tenant, ()) if entry.call is call]:
            self._queues[call.tenant].remove(entry)
        if not self._queues.get(call.tenant, True):
            del self._queues[call.tenant]

    def _count(self, call: _Call[Prepared, Result], seconds: float) -> None:
        call.seconds += seconds
        self._backlog.count(seconds)

    def _find_or_enqueue(self, entry: _Entry[Prepared, Result]) -> None:
        entry.call.pending.append(entry)
        if entry.key is None or self._cache is None:
            self._enqueue(entry)
        else:
            self._cache.resolve(entry.key, entry.result, partial(self._enqueue, entry))
            entry.call.started |= entry.result.done()

    def _enqueue(self, entry: _Entry[Prepared, Result]) -> None:
        self._queues.setdefault(entry.call.tenant, deque()).append(entry)
        self._window.joined()
        if self._gatherer is None or self._gatherer.done():
            self._gatherer = asyncio.create_task(self._gather())

    async def _gather(self) -> None:
        while self._queues:
            if not self._running.locked():
                await self._window.wait(asyncio.get_running_loop().time(), self._is_full)
            if not self._queues:  # all callers left
                return
            # The first clip of the tenant whose turn it is determines the batch's key.
            first = next(iter(self._queues.values()))[0]
            batch = _Batch[Prepared, Result](self._strategy.batch_key(first.call.options))
            await self._fill(batch)
            await self._running.acquire()
            await self._fill(batch)  # with clips that arrived while the previous batch was running
            running = asyncio.create_task(self._run(batch))
            self._tasks.add(running)
            running.add_done_callback(self._tasks.discard)

    def _is_full(self) -> bool:
        return sum(map(len, self._queues.values())) >= self._max_batch_clips

    async def _fill(self, batch: _Batch[Prepared, Result]) -> None:
        """Prepares clips for a batch until it is full or no more clips with its key are waiting."""
        while len(batch.entries) < self._max_batch_clips and (entry := self._take_next(batch.key)) is not None:
            try:
                prepared = await self._strategy.prepare(entry.clip, entry.call.options, batch.work)
            except Exception as error:  # any error is the caller's
                if not entry.result.done():
                    entry.result.set_exception(error)
                continue
            batch.entries.append(entry)
            batch.prepared.append(prepared)

    async def _run(self, batch: _Batch[Prepared, Result]) -> None:
        """Runs a batch, then lets the next one start; stops early if no caller is left."""
        try:
            batch.drop_abandoned()
            if not batch.entries or not await self._hand_out(batch):
                return
        except Exception as error:  # as above
            for entry in batch.entries:
                if not entry.result.done():
                    entry.result.set_exception(error)
            return
        finally:
            started = max(batch.started, self._last_ended)
            self._last_ended = time.monotonic()
            self._running.release()
        audio_seconds = sum(_seconds(entry.clip) for entry in batch.entries)
        self._backlog.learn(self._last_ended - started, audio_seconds)
        telemetry.observe_work("speech_encoder", batch.work.seconds, audio_seconds, len(batch.entries))

    async def _hand_out(self, batch: _Batch[Prepared, Result]) -> bool:
        """Delivers results as they arrive; returns False if the batch was abandoned."""
        async with aclosing(self._strategy.run(batch.prepared, batch.key, batch.work)) as results:
            entries = iter(batch.entries)
            async for result in results:
                if result is None:
                    if all(entry.result.cancelled() for entry in batch.entries):
                        return False
                elif not (entry := next(entries)).result.done():
                    entry.result.set_result(result)
        return True

    def _take_next(self, key: str) -> _Entry[Prepared, Result] | None:
        """The next clip with this key, of the tenant that has waited longest; None if there is none."""
        for queue in self._queues.values():
            entry = next((entry for entry in queue if self._strategy.batch_key(entry.call.options) == key), None)
            if entry is not None:
                self._take(entry)
                return entry
        return None

    def _take(self, entry: _Entry[Prepared, Result]) -> None:
        """Takes a clip from its tenant's queue and moves the queue behind those of other tenants."""
        entry.call.started = True
        queue = self._queues.pop(entry.call.tenant)
        queue.remove(entry)
        if queue:
            self._queues[entry.call.tenant] = queue


def _seconds(clip: Clip) -> float:
    return clip.end_seconds - clip.start_seconds
