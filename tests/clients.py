"""Clients that go on all the while that something is done to a stack."""

import threading
from collections.abc import Callable
from types import TracebackType
from typing import Self


class Clients:
    """Threads that each do their work again and again, until the `with` body ends.

    Attributes:
        failures: What their work raised; a test asserts that it is empty.
    """

    def __init__(self, *works: Callable[[], None]) -> None:
        self.failures: list[str] = []
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._again_and_again, args=(work,)) for work in works]

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

    def _again_and_again(self, work: Callable[[], None]) -> None:
        while not self._over.is_set():
            try:
                work()
            except Exception as error:
                self.failures.append(f"{type(error).__name__}: {error}")
