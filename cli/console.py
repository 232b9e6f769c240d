"""What the commands print with: results go to stdout, everything about the way there to stderr."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

_LINE_SECONDS = 30.0  # between two lines about progress where stderr is no terminal

Step = Callable[[str, int, int, str], None]

out = Console(highlight=False)
err = Console(stderr=True, highlight=False)


def note(text: str) -> None:
    """A dim line about progress, on stderr."""
    err.print(f"[dim]{escape(text)}[/]", soft_wrap=True)


def show_failure(message: str, hint: str) -> None:
    """What went wrong and, where there is one, the way out of it."""
    err.print(f"[bold red]Error:[/] {escape(message)}", soft_wrap=True)
    if hint:
        err.print(f"[bold]Next:[/] {escape(hint)}", soft_wrap=True)


def write_text(text: str) -> None:
    """Text as it is, at once: no markup, no wrapping, no line end."""
    sys.stdout.write(text)
    sys.stdout.flush()


@contextmanager
def step_progress() -> Iterator[Step]:
    """Shows steps on stderr: a bar for each in a terminal, else a line when one ends and now and then in between.

    Yields:
        To be called with the name of a step, how much of it is done, how much there is, and a word on it.
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


def _lines() -> Step:
    told: dict[str, float] = {}

    def show(name: str, done: int, total: int, word: str) -> None:
        now = time.monotonic()
        if done >= total or now - told.get(name, 0.0) >= _LINE_SECONDS:
            told[name] = now
            note(f"{name}: {done} of {total} {word}".rstrip())

    return show
