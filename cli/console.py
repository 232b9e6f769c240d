"""Console output of the commands: results go to stdout, progress and errors to stderr."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

_LINE_SECONDS = 30.0  # between progress lines if stderr is not a terminal
_MIB = 2**20

Step = Callable[[str, int, int, str], None]

out = Console(highlight=False)
err = Console(stderr=True, highlight=False)


def note(text: str) -> None:
    """Prints a dim line to stderr."""
    err.print(f"[dim]{escape(text)}[/]", soft_wrap=True)


def show_failure(message: str, hint: str) -> None:
    """Prints an error and, if there is one, a hint."""
    err.print(f"[bold red]Error:[/] {escape(message)}", soft_wrap=True)
    if hint:
        err.print(f"[bold]Next:[/] {escape(hint)}", soft_wrap=True)


def write_text(text: str) -> None:
    """Writes text unchanged and flushes: no markup, no wrapping, no newline."""
    sys.stdout.write(text)
    sys.stdout.flush()


@contextmanager
def step_progress() -> Iterator[Step]:
    """Shows steps on stderr: a progress bar for each in a terminal, otherwise a line periodically and at the end.

    Yields:
        A function of the name of a step, how much of it is done, its total, and a short remark.
    """
    if not err.is_terminal:
        yield _lines()
        return
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[word]}"),
    )
    with Progress(*columns, console=err) as bars:
        tasks = {}

        def show(name: str, done: int, total: int, word: str) -> None:
            if name not in tasks:
                tasks[name] = bars.add_task(name, total=total, word=word)
            bars.update(tasks[name], completed=done, total=total, word=word)

        yield show


@contextmanager
def upload_bar(name: str, size: int) -> Iterator[Callable[[int], None]]:
    """Shows an upload on stderr: a progress bar in a terminal, otherwise a line periodically.

    Yields:
        A function, callable from any thread, of the number of further bytes sent.
    """
    if not err.is_terminal:
        yield _upload_lines(name, size)
        return
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(SpinnerColumn(), *columns, TimeRemainingColumn(), console=err, transient=True) as bars:
        task = bars.add_task(f"uploading {escape(name)}", total=size)
        yield lambda sent: bars.advance(task, sent)


def _lines() -> Step:
    printed: dict[str, float] = {}

    def show(name: str, done: int, total: int, word: str) -> None:
        now = time.monotonic()
        if done >= total or now - printed.get(name, 0.0) >= _LINE_SECONDS:
            printed[name] = now
            note(f"{name}: {done} of {total} {word}".rstrip())

    return show


def _upload_lines(name: str, size: int) -> Callable[[int], None]:
    sent, printed = 0, time.monotonic()

    def show(more: int) -> None:
        nonlocal sent, printed
        sent += more
        now = time.monotonic()
        if more > 0 and (sent >= size or now - printed >= _LINE_SECONDS):
            printed = now
            note(f"uploading {name}: {sent / _MIB:.1f} of {size / _MIB:.1f} MiB")

    return show
