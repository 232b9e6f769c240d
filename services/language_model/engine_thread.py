"""The thread that runs the engine's steps, and the way of requests into it and of their events out."""

import asyncio
import threading
from collections import deque
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import Future
from typing import TypeVar

from model_core.engine.engine import Engine
from model_core.engine.request import Delta, Event, Failure, Finish
from model_core.engine.sequence import Sequence
from services.shared import telemetry

T = TypeVar("T")

log = telemetry.get_logger(__name__)


class EngineThread:
    """Runs steps while there is work.

    Work from outside is done between two steps. The events of a step cross to the event loop together, each into the
    queue of its request, so that a slow reader delays nobody.

    Args:
        engine: Belongs to this thread from now on.
        after_step: Called in the thread after each step, and when work has ended.
    """

    def __init__(self, engine: Engine, after_step: Callable[[], None]) -> None:
        self._engine = engine
        self._after_step = after_step
        self._wake = threading.Condition()
        self._work: deque[Callable[[], None]] = deque()
        self._stopping = False
        self._queues: dict[str, asyncio.Queue[Event]] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._thread.start()

    async def run(self, work: Callable[[], T]) -> T:
        """Runs `work` between two steps. Cancelled before its start, it never runs; later, this waits for its end."""
        result: Future[T] = Future()

        def do() -> None:
            if not result.set_running_or_notify_cancel():
                return
            try:
                result.set_result(work())
            except BaseException as error:
                result.set_exception(error)

        self._submit(do)
        waiting = asyncio.wrap_future(result)
        try:
            return await asyncio.shield(waiting)
        except asyncio.CancelledError:
            if not result.cancel():
                await asyncio.wait([waiting])
            raise

    async def generate(self, sequence: Sequence) -> AsyncGenerator[Delta | Finish, None]:
        """Adds a request and yields its events. Closing this ends the request's work at the next step.

        Raises:
            QueueFull, InvalidInput: as `Engine.add_request` does.
            Exception: what made this request fail.
        """
        self._loop = asyncio.get_running_loop()
        queue = self._queues[sequence.request_id] = asyncio.Queue()
        try:
            await self.run(lambda: self._engine.add_request(sequence))
            while True:
                event = await queue.get()
                if isinstance(event, Failure):
                    raise event.error
                yield event
                if isinstance(event, Finish):
                    return
        finally:
            del self._queues[sequence.request_id]
            self._submit(lambda: self._engine.abort(sequence.request_id))

    def shut_down(self) -> None:
        """Lets the step in progress end and takes no more."""
        with self._wake:
            self._stopping = True
            self._wake.notify()

    def _submit(self, work: Callable[[], None]) -> None:
        with self._wake:
            self._work.append(work)
            self._wake.notify()

    def _run(self) -> None:
        while True:
            with self._wake:
                self._wake.wait_for(lambda: self._stopping or self._work or self._engine.has_work)
                if self._stopping:
                    return
                work, self._work = self._work, deque()
            for each in work:
                each()
            if self._engine.has_work:
                self._step()
            self._after_step()

    def _step(self) -> None:
        try:
            events = self._engine.step()
        except Exception as error:
            # One request cannot be blamed: all that run end, and the engine goes on with those that come.
            log.exception("a step failed")
            events = [(request_id, Failure(error)) for request_id in self._engine.abort_all()]
        if events and self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._deliver, events)

    def _deliver(self, events: list[tuple[str, Event]]) -> None:
        for request_id, event in events:
            if queue := self._queues.get(request_id):
                queue.put_nowait(event)
