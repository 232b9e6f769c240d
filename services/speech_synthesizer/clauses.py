"""Concurrent synthesis of clauses, for voices that speak from text."""

import asyncio
import heapq
import itertools
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from model_core.speech.voice import Samples
from services.shared.rpc.threads import ModelThread


class ClausePool:
    """Synthesizes a few clauses concurrently; the first clause of an answer goes before later ones of others.

    Answers submit one clause at a time, so they take turns. However long the texts of others are, the first clause of
    an answer waits for one of their clauses at most.

    Args:
        max_clauses: Maximum clauses synthesized at the same time.
    """

    def __init__(self, max_clauses: int) -> None:
        self._thread = ModelThread("clauses", max_clauses)
        self._free = max_clauses
        self._waiting: list[tuple[bool, int, asyncio.Future[None]]] = []  # a heap: first clauses, then by arrival
        self._arrivals = itertools.count()

    async def run(self, synthesize: Callable[[], Samples], *, is_first: bool) -> Samples:
        """Synthesizes a clause in its turn. If cancelled, it is dropped if not started, and awaited otherwise."""
        async with self._turn(is_first):
            return await self._thread.run(synthesize)

    def shut_down(self) -> None:
        """Lets the clauses in progress end and takes no more."""
        self._thread.shut_down()

    @asynccontextmanager
    async def _turn(self, is_first: bool) -> AsyncIterator[None]:
        if self._free:
            self._free -= 1
        else:
            turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            heapq.heappush(self._waiting, (not is_first, next(self._arrivals), turn))
            try:
                await turn
            except asyncio.CancelledError:
                if not turn.cancelled():  # it was granted at the same moment
                    self._pass_on()
                raise
        try:
            yield
        finally:
            self._pass_on()

    def _pass_on(self) -> None:
        while self._waiting:
            _, _, turn = heapq.heappop(self._waiting)
            if not turn.done():
                turn.set_result(None)
                return
        self._free += 1
