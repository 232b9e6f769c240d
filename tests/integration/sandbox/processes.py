"""What processes a Decoders has, seen from outside."""

import time
from collections.abc import Callable

import psutil

from services.shared.sandbox.decoders import Decoders

PATIENCE_SECONDS = 60.0  # for a machine that is busy with other things


def until(holds: Callable[[], bool]) -> None:
    """Returns when `holds` does; fails where it never does."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def children(decoders: Decoders) -> set[int]:
    """Process ids of all children there are."""
    pid = decoders.pool.zygote_pid
    try:
        return set() if pid is None else {child.pid for child in psutil.Process(pid).children()}
    except psutil.NoSuchProcess:
        return set()


def runs(pid: int) -> bool:
    """Whether there is such a process, and it is not only waiting to be buried."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


class Trap:
    """A file that does something when it is read for the first time, to the child that reads it."""

    def __init__(self, data: bytes, decoders: Decoders, spring: Callable[[int], object]) -> None:
        self._data = data
        self._position = 0
        self._decoders = decoders
        self._spring = spring
        self.sprung = 0

    def seek(self, offset: int, whence: int = 0) -> int:
        self._position = {0: 0, 1: self._position, 2: len(self._data)}[whence] + offset
        return self._position

    def read(self, count: int = -1) -> bytes:
        self.sprung += 1
        idle = {child.pid for child in self._decoders.pool.idle}
        for pid in children(self._decoders) - idle:
            self._spring(pid)
        data = self._data[self._position :][: count if count >= 0 else None]
        self._position += len(data)
        return data
