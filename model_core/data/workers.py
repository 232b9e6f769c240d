"""Work on the pieces of a data set, in this process or in several, with results in the order of the pieces."""

import multiprocessing
import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

from model_core.errors import InvalidInput

Piece = TypeVar("Piece")
Done = TypeVar("Done")

_WAITING = 2  # pieces handed out for each process, so that a long list is not all in memory


def in_order(work: Callable[[Piece], Done], pieces: Iterable[Piece], workers: int) -> Iterator[Done]:
    """`work` of each piece, in the order of the pieces, whatever the number of workers.

    Args:
        work: What pickle can carry to another process.
        pieces: Taken only as fast as they are worked on.
        workers: Processes; with 1 everything happens in this one.

    Raises:
        Whatever `work` raises; pieces that have not begun are then given up.
        InvalidInput: a process was killed, most likely for want of memory.
    """
    if workers == 1:
        yield from map(work, pieces)
        return
    # Forking a process in which torch has started threads can hang: each worker starts anew.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, context, initializer=end_with_parent) as pool:
        running: deque[Future[Done]] = deque()
        try:
            for piece in pieces:
                running.append(pool.submit(work, piece))
                if len(running) >= workers * _WAITING:
                    yield running.popleft().result()
            while running:
                yield running.popleft().result()
        except BrokenProcessPool as error:
            raise InvalidInput(
                "workers", "a process was killed, most likely for want of memory: give fewer workers and run this again"
            ) from error
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def end_with_parent() -> None:
    """Called in a worker process: ends it when its parent was killed, for whose work it would wait for ever."""
    parent = multiprocessing.parent_process()
    if parent is None:
        return
    join = parent.join

    def wait() -> None:
        join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()
