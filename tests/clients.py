"""Clients that keep sending requests while a test disturbs a stack."""

import threading
from collections.abc import Callable
from types import TracebackType
from typing import Self


class Clients:
    """Threads that repeat their work until the `with` body ends.

    Attributes:
        failures: Exceptions of the work; a test asserts that there are none.
    """

    def __init__(self, *works: Callable[[], None]) -> None:
        self.failures: list[str] = []
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._repeat, args=(work,)) for work in works]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()

    def _repeat(self, work: Callable[[], None]) -> None:
        while not self._over.is_set():
            try:
                work()
            except Exception as error:
                self.failures.append(f"{type(error).__name__}: {error}")
