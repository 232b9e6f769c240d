"""Transcripts as subtitle files."""

from collections.abc import Iterable
from typing import Protocol


class Segment(Protocol):
    """A timed phrase."""

    @property
    def start_seconds(self) -> float: ...
    @property
    def end_seconds(self) -> float: ...
    @property
    def text(self) -> str: ...


def plain_text(segments: Iterable[Segment]) -> str:
    """The text alone, in one line."""
    return " ".join(text for segment in segments if (text := segment.text.strip()))


def to_srt(segments: Iterable[Segment]) -> str:
    """SubRip: numbered, with decimal commas."""
    return "".join(
        f"{number}\n{_times(segment, ',')}\n{_line(segment.text)}\n\n" for number, segment in enumerate(segments, 1)
    )


def to_vtt(segments: Iterable[Segment]) -> str:
    """WebVTT."""
    return "WEBVTT\n\n" + "".join(f"{_times(segment, '.')}\n{_escape(_line(segment.text))}\n\n" for segment in segments)


def _times(segment: Segment, point: str) -> str:
    return f"{_time(segment.start_seconds, point)} --> {_time(segment.end_seconds, point)}"


def _time(seconds: float, point: str) -> str:
    milliseconds = round(seconds * 1000)
    minutes, milliseconds = divmod(milliseconds, 60_000)
    return f"{minutes // 60:02}:{minutes % 60:02}:{milliseconds // 1000:02}{point}{milliseconds % 1000:03}"


def _line(text: str) -> str:
    """In one line and without arrows, which would end the cue."""
    return " ".join(text.split()).replace("-->", "->")


def _escape(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
