"""How a job is displayed: progress bar, status page, transcript and answers."""

import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import RenderableType
from rich.markup import escape
from rich.progress import (
    BarColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
)
from rich.table import Column, Table

from cli.console import err, note, write_text

_LINE_SECONDS = 30.0  # between progress lines if stderr is not a terminal

OnEvent = Callable[[dict[str, Any]], None]


@contextmanager
def job_bar(words: bool) -> Iterator[OnEvent]:
    """Shows the events of a job: the transcript on stdout, progress on stderr.

    Args:
        words: Print the transcript.

    Yields:
        A function to call with each event.
    """
    say = _say if words else lambda event: None
    if not err.is_terminal:
        with_lines = _ProgressLines()
        yield lambda event: _dispatch(event, say, with_lines.show)
        return
    last = TextColumn("{task.fields[word]}", table_column=Column(no_wrap=True))
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(20), TimeElapsedColumn(), last)
    # The transcript is printed above the bar if stdout is the same terminal.
    with Progress(*columns, console=err, redirect_stdout=sys.stdout.isatty()) as bars:
        task, pace = bars.add_task("queued", total=None, word=""), _Pace()

        def show(event: dict[str, Any]) -> None:
            done, total = _clock_share(event["progress"])
            word = pace.word(event)
            bars.update(task, description=event["state"], completed=done, total=total, word=word)

        yield lambda event: _dispatch(event, say, show)


def job_page(job: dict[str, Any]) -> RenderableType:
    """The status page of a job."""
    page = Table(box=None, show_header=False, pad_edge=False)
    progress, webhook = job["progress"], job["webhook"]
    rows = {
        "job": job["id"],
        "state": job["state"] + (f": {job['reason']}" if job["reason"] else ""),
        "waiting": job.get("waits_for", ""),
        "recording": f"{job['filename']} ({job['media_id']})",
        "transcribed": transcribed(progress),
        "tasks": ", ".join(job["tasks"]),
        "submitted": job["created_at"],
        "ended": job["ended_at"] or "",
        "kept until": job["retained_until"] or "",
        "callback": f"{webhook['url']}: {webhook['state']} (tries: {webhook['tries']})" if webhook else "",
        "metadata": ", ".join(f"{name}={value}" for name, value in job["metadata"].items()),
    }
    for name, value in rows.items():
        if value:
            page.add_row(f"[bold]{name}[/]", escape(value))
    for each in job["failures"]:
        where = f"{clock(each['start_seconds'])} to {clock(each['end_seconds'])}"
        page.add_row("[bold]not transcribed[/]", escape(f"clip {each['clip']} ({where}): {each['reason']}"))
    for each in job["questions"]:
        page.add_row("[bold]question[/]", escape(f"{each['id']} ({each['state']}) {each['text']}"))
    return page


def answers_text(result: dict[str, Any], only: Iterable[str] | None = None) -> str:
    """Summary and answers of a result, or those with the ids in `only`."""
    wanted = None if only is None else set(only)
    found = [result["summary"], *result["answers"]]
    return "\n".join(_answer(each) for each in found if each and (wanted is None or each["id"] in wanted))


def result_text(result: dict[str, Any]) -> str:
    """A readable result: gaps, transcript with times, summary and answers."""
    parts = [_gaps(result)]
    if result["segments"] is not None:
        parts.append("".join(_line(each) for each in result["segments"]))
    return "\n".join(part for part in (*parts, answers_text(result)) if part)


def transcribed(progress: dict[str, Any]) -> str:
    """Progress of a job, in words."""
    done, total = _clock_share(progress)
    if total is None:
        return "not yet"
    return f"{clock(done)} of {clock(total)} ({progress['clips_heard']} of {progress['clips']} clips)"


def share(progress: dict[str, Any]) -> str:
    """Progress of a job, in percent."""
    return f"{100 * progress['clips_heard'] // progress['clips']} %" if progress["clips"] else ""


def clock(seconds: float) -> str:
    """h:mm:ss."""
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}"


class _Pace:
    """Speed of a job since it was first observed."""

    def __init__(self) -> None:
        self._began: tuple[float, float] | None = None  # time, and seconds transcribed then

    def word(self, event: dict[str, Any]) -> str:
        """Progress, speed and remaining time, for the end of a line."""
        progress, now = event["progress"], time.monotonic()
        done, total = _clock_share(progress)
        if total is None or event["state"] != "running":
            return ""
        begun, before = self._began = self._began or (now, done)
        parts = [f"{clock(done)} of {clock(total)}"]
        if done > before and now > begun:
            parts.append(f"{(done - before) / (now - begun):.1f} x real time")
        if progress["remaining_seconds"] is not None:
            parts.append(f"{clock(progress['remaining_seconds'])} left")
        return " · ".join(parts)


class _ProgressLines:
    """A line on stderr when the state changes, and periodically in between."""

    def __init__(self) -> None:
        self._state, self._printed, self._pace = "", 0.0, _Pace()

    def show(self, event: dict[str, Any]) -> None:
        now, word = time.monotonic(), self._pace.word(event)
        if event["state"] != self._state or now - self._printed >= _LINE_SECONDS:
            self._state, self._printed = event["state"], now
            note(f"{event['state']} {word}".rstrip())


def _dispatch(event: dict[str, Any], say: OnEvent, show: OnEvent) -> None:
    if "segments" in event:
        say(event)
    elif "progress" in event:
        show(event)


def _say(event: dict[str, Any]) -> None:
    for each in event["segments"]:
        write_text(_line(each))


def _line(segment: dict[str, Any]) -> str:
    return f"{clock(segment['start_seconds'])}  {segment['text'].strip()}\n"


def _clock_share(progress: dict[str, Any]) -> tuple[float, float | None]:
    """Seconds done and in total (None until the job is planned), estimated from the number of clips."""
    seconds, clips = progress["seconds"], progress["clips"]
    return (seconds * progress["clips_heard"] / clips, seconds) if clips and seconds is not None else (0.0, None)


def _answer(answer: dict[str, Any]) -> str:
    windows = answer["windows"]
    how = f"\n(from {len(windows)} consecutive windows of the recording)" if windows else ""
    asked = "Summary" if answer["id"] == "summary" else answer["question"]
    return f"{asked}\n  {answer['text'].strip()}{how}\n"


def _gaps(result: dict[str, Any]) -> str:
    lines = ["The file is truncated; this is the result for the part that exists.\n"] if result["truncated"] else []
    for gap in result["gaps"]:
        where = f"{clock(gap['start_seconds'])} to {clock(gap['end_seconds'])}"
        lines.append(f"Not transcribed from {where}: {gap['reason']}\n")
    return "".join(lines)
