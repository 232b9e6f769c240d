"""Joins the transcripts of a recording's clips: where clips overlap, no word is lost or repeated.

The transcripts of two overlapping clips are aligned like overlapping reads of a sequence: the end of the one with the
start of the other, matching words that both have at about the same time. The joined transcript switches from the one to
the other at the common word closest to the middle of the overlap.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from model_core.audio.cuts import Cut

_SLACK_SECONDS = 2.0  # word times are estimates: the same word may appear this far apart
# Scores of an alignment: matching two words, and skipping words.
_SAME, _LOSS_PER_SECOND, _MIN_SAME = 2.0, 2.5, 0.5
_DIFFERENT, _ALONE = -0.9, -0.6
_EDGE = -0.1  # the first or last word of a clip may be cut in half
_MIN_SCORE = 0.6  # of an alignment: a single common word far off is a coincidence
# Scripts without spaces between words: each character is a word.
_UNSPACED = r"\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u2e80-\u9fff\uf900-\ufaff"
_WORD = re.compile(rf"[{_UNSPACED}]|[^\s{_UNSPACED}]+")


@dataclass(frozen=True, slots=True)
class Segment:
    """Words that belong together.

    Attributes:
        start: Seconds.
        end: Seconds.
        text: The words, without surrounding spaces.
    """

    start: float
    end: float
    text: str


@dataclass(frozen=True, slots=True)
class _Word:
    """A word: its segment, its span in the text, its estimated times, and the letters that are compared."""

    segment: int
    begin: int
    end: int
    start_seconds: float
    end_seconds: float
    letters: str

    @property
    def seconds(self) -> float:
        return (self.start_seconds + self.end_seconds) / 2


def join_transcripts(clips: Iterable[tuple[Cut, Sequence[Segment]]], seconds: float) -> list[Segment]:
    """One transcript of a recording.

    Args:
        clips: Each clip's position and its transcript, timed from the start of the clip, in order. A missing clip
            leaves a gap.
        seconds: Duration of the recording.

    Returns:
        Segments timed from the start of the recording: in order, without overlap, inside the recording, none empty.
    """
    joined: list[Segment] = []
    last: list[Segment] = []
    last_index = -1
    for cut, transcript in clips:
        placed = [segment for segment in (_placed(segment, cut) for segment in transcript) if segment.text]
        if cut.overlap_seconds > 0 and cut.index == last_index + 1:
            last, placed = _switch(last, placed, cut.start_seconds, cut.start_seconds + cut.overlap_seconds)
        joined += last
        last, last_index = placed, cut.index
    return _in_order(joined + last, seconds)


def _placed(segment: Segment, cut: Cut) -> Segment:
    start, end = (min(cut.start_seconds + max(at, 0.0), cut.end_seconds) for at in (segment.start, segment.end))
    return Segment(start, max(start, end), segment.text.strip())


def _switch(
    before: list[Segment], after: list[Segment], start: float, end: float
) -> tuple[list[Segment], list[Segment]]:
    """Segments of two neighbours without what both have between `start` and `end`, seconds of the recording."""
    left = [word for word in _words(before) if word.end_seconds >= start - _SLACK_SECONDS]
    right = [word for word in _words(after) if word.start_seconds <= end + _SLACK_SECONDS]
    middle = (start + end) / 2
    common = _common(left, right)
    if common:
        one, other = min(common, key=lambda pair: abs(pair[0].seconds + pair[1].seconds - 2 * middle))
        return _until(before, one), _after(after, other)
    in_both = any(word.seconds >= start for word in left) and any(word.seconds <= end for word in right)
    if in_both:  # but no common word: each keeps its half
        kept = [word for word in _words(before) if word.seconds < middle]
        dropped = [word for word in _words(after) if word.seconds < middle]
        before = _until(before, kept[-1]) if kept else []
        after = _after(after, dropped[-1]) if dropped else after
    return before, after


def _words(segments: list[Segment]) -> list[_Word]:
    words = []
    for index, segment in enumerate(segments):
        second = (segment.end - segment.start) / len(segment.text)  # per character
        for match in _WORD.finditer(segment.text):
            letters = "".join(letter for letter in match[0].casefold() if letter.isalnum())
            if letters:
                begin, end = match.span()
                times = (segment.start + begin * second, segment.start + end * second)
                words.append(_Word(index, begin, end, *times, letters))
    return words


def _common(left: list[_Word], right: list[_Word]) -> list[tuple[_Word, _Word]]:
    """Common words of the best alignment of the end of `left` with the start of `right`.

    Dynamic programming, as for overlapping reads: words before the overlap on the left and after it on the right cost
    nothing, every other unmatched word does.
    """
    best = [[0.0] * (len(right) + 1) for _ in range(len(left) + 1)]
    skip_left = [_ALONE] * (len(left) - 1) + [_EDGE]
    skip_right = [_EDGE] + [_ALONE] * (len(right) - 1)
    for j in range(1, len(right) + 1):
        best[0][j] = best[0][j - 1] + skip_right[j - 1]
    for i, one in enumerate(left, 1):
        for j, other in enumerate(right, 1):
            best[i][j] = max(
                best[i - 1][j - 1] + _score(one, other),
                best[i - 1][j] + skip_left[i - 1],
                best[i][j - 1] + skip_right[j - 1],
            )
    j = max(range(len(right) + 1), key=lambda column: best[-1][column])
    if best[-1][j] < _MIN_SCORE:
        return []
    i = len(left)
    common = []
    while i and j:
        score = _score(left[i - 1], right[j - 1])
        if best[i][j] == best[i - 1][j - 1] + score:
            i, j = i - 1, j - 1
            if score > 0:
                common.append((left[i], right[j]))
        elif best[i][j] == best[i - 1][j] + skip_left[i - 1]:
            i -= 1
        else:
            j -= 1
    return common


def _score(one: _Word, other: _Word) -> float:
    apart = abs(one.seconds - other.seconds)
    if one.letters != other.letters or apart > _SLACK_SECONDS:
        return _DIFFERENT
    return max(_SAME - _LOSS_PER_SECOND * apart, _MIN_SAME)


def _until(segments: list[Segment], word: _Word) -> list[Segment]:
    """Segments up to and including a word."""
    last = segments[word.segment]
    return [*segments[: word.segment], replace(last, end=word.end_seconds, text=last.text[: word.end])]


def _after(segments: list[Segment], word: _Word) -> list[Segment]:
    """Segments after a word."""
    first = segments[word.segment]
    text = first.text[word.end :].strip()
    rest = segments[word.segment + 1 :]
    if not any(letter.isalnum() for letter in text):
        return rest
    return [replace(first, start=word.end_seconds, text=text), *rest]


def _in_order(segments: list[Segment], seconds: float) -> list[Segment]:
    ordered: list[Segment] = []
    reached = 0.0
    for segment in segments:
        start = min(max(segment.start, reached), seconds)
        reached = min(max(segment.end, start), seconds)
        ordered.append(replace(segment, start=start, end=reached))
    return ordered
