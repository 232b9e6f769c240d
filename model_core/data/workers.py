"""An ordered parallel map over the pieces of a data set."""

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

_WAITING = 2  # submitted pieces per process, which bounds memory


def in_order(work: Callable[[Piece], Done], pieces: Iterable[Piece], workers: int) -> Iterator[Done]:
    """`work` of each piece, in the order of the pieces.

    Args:
        work: A picklable function.
        pieces: Consumed only as fast as they are processed.
        workers: Number of processes; 1 runs in this process.

    Raises:
        Whatever `work` raises; pieces that have not started are then cancelled.
        InvalidInput: a process was killed, probably for lack of memory.
    """
    if workers == 1:
        yield from map(work, pieces)
        return
    # Forking a process in which torch has started threads can hang, so workers are spawned.
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
                "workers", "a process was killed, probably for lack of memory: run this again with fewer workers"
            ) from error
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def end_with_parent() -> None:
    """Called in a worker process: ends it if its parent is killed, since it would wait for work forever."""
    parent = multiprocessing.parent_process()
    if parent is None:
        return
    join = parent.join

    def wait() -> None:
        join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()
