"""The processes of a Decoders, seen from outside."""

import time
from collections.abc import Callable

import psutil

from services.shared.sandbox.decoders import Decoders

TIMEOUT_SECONDS = 60.0  # for a machine that is busy with other things


def until(holds: Callable[[], bool]) -> None:
    """Polls until `holds`; fails after a timeout."""
    deadline = time.monotonic() + TIMEOUT_SECONDS
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def children(decoders: Decoders) -> set[int]:
    """Process ids of all child processes."""
    pid = decoders.pool.zygote_pid
    try:
        return set() if pid is None else {child.pid for child in psutil.Process(pid).children()}
    except psutil.NoSuchProcess:
        return set()


def busy_children(decoders: Decoders) -> set[int]:
    """Process ids of the children that decode a file. A child that has just been forked is not among them."""
    pool = decoders.pool
    with pool._changed:
        return set() if pool._zygote is None else set(pool._zygote.children) - {child.pid for child in pool._idle}


def runs(pid: int) -> bool:
    """Whether the process exists and is not a zombie."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


class Trap:
    """A file whose first read calls a function with the pid of the child that decodes it."""

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
        for pid in busy_children(self._decoders):
            self._spring(pid)
        data = self._data[self._position :][: count if count >= 0 else None]
        self._position += len(data)
        return data
