"""Transcripts of a recording's clips to one transcript: where clips overlap, no word is lost or said twice.

What two overlapping clips say is laid side by side like overlapping reads of a sequence: the end of the one against the
beginning of the other, words that both heard at about the same time on top of each other. The transcript changes over
from the one to the other at the common word that is nearest to the middle of the overlap.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from model_core.audio.cuts import Cut

_SLACK_SECONDS = 2.0  # times of words are estimates: so far apart the same word may seem to be said
# What laying two words on top of each other is worth, and what it costs to lay words aside.
_SAME, _LOSS_A_SECOND, _SAME_AT_LEAST = 2.0, 2.5, 0.5
_DIFFERENT, _ALONE = -0.9, -0.6
_EDGE = -0.1  # the first or last word of a clip may be half a word
_LEAST = 0.6  # what an alignment has to be worth: one common word far off is an accident
# Scripts that put no spaces between words: a word is a character.
_UNSPACED = r"\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u2e80-\u9fff\uf900-\ufaff"
_WORD = re.compile(rf"[{_UNSPACED}]|[^\s{_UNSPACED}]+")


@dataclass(frozen=True, slots=True)
class Segment:
    """Words that belong together.

    Attributes:
        start: Seconds, where they start.
        end: Seconds, where they end.
        text: The words, without space around them.
    """

    start: float
    end: float
    text: str


@dataclass(frozen=True, slots=True)
class _Word:
    """A word: the segment it is in, where in its text, when it is said (estimated), and what is compared."""

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
        clips: Each clip's place and its transcript, timed from the clip's own beginning, in the recording's order.
            A clip that is missing leaves a gap.
        seconds: Length of the recording.

    Returns:
        Segments timed from the recording's beginning: none starts before the one before it ends, none ends before it
        starts, all lie inside the recording, and none is empty.
    """
    joined: list[Segment] = []
    last: list[Segment] = []
    last_index = -1
    for cut, transcript in clips:
        placed = [segment for segment in (_placed(segment, cut) for segment in transcript) if segment.text]
        if cut.overlap_seconds > 0 and cut.index == last_index + 1:
            last, placed = _change_over(last, placed, cut.start_seconds, cut.start_seconds + cut.overlap_seconds)
        joined += last
        last, last_index = placed, cut.index
    return _in_order(joined + last, seconds)


def _placed(segment: Segment, cut: Cut) -> Segment:
    start, end = (min(cut.start_seconds + max(at, 0.0), cut.end_seconds) for at in (segment.start, segment.end))
    return Segment(start, max(start, end), segment.text.strip())


def _change_over(
    before: list[Segment], after: list[Segment], start: float, end: float
) -> tuple[list[Segment], list[Segment]]:
    """Two neighbours' segments without what both say between `start` and `end`, seconds of the recording."""
    left = [word for word in _words(before) if word.end_seconds >= start - _SLACK_SECONDS]
    right = [word for word in _words(after) if word.start_seconds <= end + _SLACK_SECONDS]
    middle = (start + end) / 2
    common = _common(left, right)
    if common:
        one, other = min(common, key=lambda pair: abs(pair[0].seconds + pair[1].seconds - 2 * middle))
        return _until(before, one), _behind(after, other)
    heard_by_both = any(word.seconds >= start for word in left) and any(word.seconds <= end for word in right)
    if heard_by_both:  # differently: each tells its half
        kept = [word for word in _words(before) if word.seconds < middle]
        dropped = [word for word in _words(after) if word.seconds < middle]
        before = _until(before, kept[-1]) if kept else []
        after = _behind(after, dropped[-1]) if dropped else after
    return before, after


def _words(segments: list[Segment]) -> list[_Word]:
    words = []
    for index, segment in enumerate(segments):
        second = (segment.end - segment.start) / len(segment.text)  # of a character
        for match in _WORD.finditer(segment.text):
            letters = "".join(letter for letter in match[0].casefold() if letter.isalnum())
            if letters:
                begin, end = match.span()
                times = (segment.start + begin * second, segment.start + end * second)
                words.append(_Word(index, begin, end, *times, letters))
    return words


def _common(left: list[_Word], right: list[_Word]) -> list[tuple[_Word, _Word]]:
    """Words that both sides have, where the end of `left` is best laid over the beginning of `right`.

    Dynamic programming over both, as for overlapping reads: what lies before the overlap on the left and behind it on
    the right costs nothing, every other word that is not matched does.
    """
    best = [[0.0] * (len(right) + 1) for _ in range(len(left) + 1)]
    skip_left = [_ALONE] * (len(left) - 1) + [_EDGE]
    skip_right = [_EDGE] + [_ALONE] * (len(right) - 1)
    for j in range(1, len(right) + 1):
        best[0][j] = best[0][j - 1] + skip_right[j - 1]
    for i, one in enumerate(left, 1):
        for j, other in enumerate(right, 1):
            best[i][j] = max(
                best[i - 1][j - 1] + _worth(one, other),
                best[i - 1][j] + skip_left[i - 1],
                best[i][j - 1] + skip_right[j - 1],
            )
    j = max(range(len(right) + 1), key=lambda column: best[-1][column])
    if best[-1][j] < _LEAST:
        return []
    i = len(left)
    common = []
    while i and j:
        worth = _worth(left[i - 1], right[j - 1])
        if best[i][j] == best[i - 1][j - 1] + worth:
            i, j = i - 1, j - 1
            if worth > 0:
                common.append((left[i], right[j]))
        elif best[i][j] == best[i - 1][j] + skip_left[i - 1]:
            i -= 1
        else:
            j -= 1
    return common


def _worth(one: _Word, other: _Word) -> float:
    apart = abs(one.seconds - other.seconds)
    if one.letters != other.letters or apart > _SLACK_SECONDS:
        return _DIFFERENT
    return max(_SAME - _LOSS_A_SECOND * apart, _SAME_AT_LEAST)


def _until(segments: list[Segment], word: _Word) -> list[Segment]:
    """Segments up to a word, the word included."""
    last = segments[word.segment]
    return [*segments[: word.segment], replace(last, end=word.end_seconds, text=last.text[: word.end])]


def _behind(segments: list[Segment], word: _Word) -> list[Segment]:
    """Segments behind a word."""
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
