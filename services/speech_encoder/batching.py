"""Clips of all open calls, gathered into batches; a strategy says what a batch is and how it is run."""

import asyncio
import time
from collections import OrderedDict, deque
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar

from model_core.audio.tensors import Clip
from services.shared import telemetry
from services.shared.rpc.threads import WorkTimer
from services.speech_encoder.backlog import Backlog

Prepared = TypeVar("Prepared")
Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class ClipOptions:
    """How the clips of a recording are processed.

    Attributes:
        adapter: Whose projector makes the speech tokens.
        language: Code of the spoken language; empty where it is not known yet, or does not matter.
    """

    adapter: str
    language: str = ""


class BatchStrategy(Protocol[Prepared, Result]):
    """What the clips of a batch have in common, and how they become results."""

    def batch_key(self, options: ClipOptions) -> str:
        """Clips share a batch where this is equal."""
        ...

    def max_in_flight(self, options: ClipOptions, max_batch_clips: int) -> int:
        """How many clips of one recording may be queued or running at a time, at most `max_batch_clips`."""
        ...

    async def prepare(self, clip: Clip, options: ClipOptions, work: WorkTimer) -> Prepared:
        """Work that is done clip by clip while the batch before is still running. Raises for this clip alone."""
        ...

    def run(self, clips: list[Prepared], key: str, work: WorkTimer) -> AsyncGenerator[Result | None, None]:
        """Runs a batch: one result a clip, in order, and None wherever it may be abandoned. Raises for all of them."""
        ...

    def options_after(self, options: ClipOptions, result: Result) -> ClipOptions:
        """Options for the rest of a recording, once the result of a clip of it is known."""
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
    """A clip that is queued or running."""

    clip: Clip
    call: _Call[Prepared, Result]
    result: asyncio.Future[Result]


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
    """Gathers the clips that wait while a batch is running, and runs them together as soon as it ends.

    Tenants take turns, clip by clip, and a call has at most `max_batch_clips` clips in flight: a long recording delays
    nobody by more than a batch or two. Where no more audio may wait, the latest recording of the tenant with most audio
    waiting is refused in favour of a tenant with less, unless it has been started.

    Args:
        strategy: What a batch is.
        max_batch_clips: Clips in one batch.
        max_seconds_waiting: Seconds of audio accepted and not processed yet, over all calls; beyond, calls are refused.
            A single recording is accepted even where it alone is longer.
    """

    def __init__(
        self, strategy: BatchStrategy[Prepared, Result], *, max_batch_clips: int, max_seconds_waiting: float
    ) -> None:
        self._strategy = strategy
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

    async def process(self, clips: list[Clip], options: ClipOptions, *, tenant: str) -> AsyncGenerator[Result, None]:
        """Yields the result of each clip of a recording, in order. Leaving the iteration drops the clips still queued.

        Raises:
            Overloaded: More audio is waiting than the limit allows, or other tenants' did while this call waited.
        """
        call = _Call[Prepared, Result](tenant, options, sum(_seconds(clip) for clip in clips))
        self._admit(call)
        ahead = deque(clips)
        try:
            while ahead or call.pending:
                while ahead and len(call.pending) < self._strategy.max_in_flight(call.options, self._max_batch_clips):
                    self._enqueue(_Entry(ahead.popleft(), call, asyncio.get_running_loop().create_future()))
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
            entry.result.set_exception(error)
            entry.result.exception()  # only the first is awaited
        self._leave(latest)

    def _leave(self, call: _Call[Prepared, Result]) -> None:
        """Forgets a call and what is left of it; calling it twice is harmless."""
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

    def _enqueue(self, entry: _Entry[Prepared, Result]) -> None:
        entry.call.pending.append(entry)
        self._queues.setdefault(entry.call.tenant, deque()).append(entry)
        if self._gatherer is None or self._gatherer.done():
            self._gatherer = asyncio.create_task(self._gather())

    async def _gather(self) -> None:
        while self._queues:
            # The first clip of the tenant whose turn it is decides what the batch is.
            first = next(iter(self._queues.values()))[0]
            batch = _Batch[Prepared, Result](self._strategy.batch_key(first.call.options))
            await self._fill(batch)
            await self._running.acquire()
            await self._fill(batch)  # with what came while the batch before was running
            running = asyncio.create_task(self._run(batch))
            self._tasks.add(running)
            running.add_done_callback(self._tasks.discard)

    async def _fill(self, batch: _Batch[Prepared, Result]) -> None:
        """Prepares clips for a batch until it is full or no clip with its key waits."""
        while len(batch.entries) < self._max_batch_clips and (entry := self._take_next(batch.key)) is not None:
            try:
                prepared = await self._strategy.prepare(entry.clip, entry.call.options, batch.work)
            except Exception as error:  # whatever it is, it belongs to the caller
                if not entry.result.done():
                    entry.result.set_exception(error)
                continue
            batch.entries.append(entry)
            batch.prepared.append(prepared)

    async def _run(self, batch: _Batch[Prepared, Result]) -> None:
        """Runs a batch, then lets the next one run; stops midway where no caller is left."""
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
        """Gives each caller its results as they come; False where the batch was abandoned."""
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
        """The next clip with a key, of the tenant that has waited longest for its turn; None where there is none."""
        for queue in self._queues.values():
            entry = next((entry for entry in queue if self._strategy.batch_key(entry.call.options) == key), None)
            if entry is not None:
                self._take(entry)
                return entry
        return None

    def _take(self, entry: _Entry[Prepared, Result]) -> None:
        """Takes a clip from its tenant's queue and moves the queue to the end, so that the others come first."""
        entry.call.started = True
        queue = self._queues.pop(entry.call.tenant)
        queue.remove(entry)
        if queue:
            self._queues[entry.call.tenant] = queue


def _seconds(clip: Clip) -> float:
    return clip.end_seconds - clip.start_seconds
