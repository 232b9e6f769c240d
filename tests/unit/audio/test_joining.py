"""Transcripts of overlapping clips are merged: every word once, in order, with times inside the recording."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from model_core.audio.cuts import Cut
from model_core.audio.joining import Segment, join_transcripts

WORDS = ["the", "and", "a", "no", "yes", "I", "it", "was", "Marianne's", "judgment;", "prevented,", "there", "is"]
TIMES = st.floats(-5, 700, allow_nan=False)


def texts(segments: list[Segment]) -> str:
    return " ".join(segment.text for segment in segments)


def joined(first: list[Segment], second: list[Segment]) -> list[Segment]:
    """Two clips, 0 to 30 s and 28.5 to 50 s, with timestamps relative to their start."""
    return join_transcripts([(Cut(0, 0, 30), first), (Cut(1, 28.5, 50, 1.5), second)], 50)


@given(
    st.lists(st.tuples(st.sampled_from(WORDS), st.floats(0.15, 0.45), st.floats(0, 0.2)), min_size=5, max_size=120),
    st.floats(3, 12),
    st.booleans(),
)
def test_no_word_is_lost_or_duplicated(words: list[tuple[str, float, float]], step: float, broken: bool) -> None:
    said: list[Segment] = []
    at = 0.0
    for word, length, pause in words:
        said.append(Segment(at, at + length, word))
        at += length + pause
    clips: list[tuple[Cut, list[Segment]]] = []
    start = 0.0
    while True:
        end = min(start + step, at)
        cut = Cut(len(clips), start, end, 1.5 if clips else 0.0)
        heard = []
        for one in said:
            if one.start >= start and one.end <= end:
                heard.append(Segment(one.start - start, one.end - start, one.text))
            elif broken and one.end > start and one.start < end:  # half a word is transcribed as something else
                heard.append(Segment(max(one.start - start, 0), min(one.end, end) - start, "hm" if heard else "uh"))
        clips.append((cut, heard))
        if end == at:
            break
        start = end - 1.5
    assert texts(join_transcripts(clips, at)) == " ".join(word for word, _, _ in words)


@given(
    st.lists(
        st.tuples(
            st.floats(0, 600),
            st.floats(0.1, 30),
            st.floats(0, 2),
            st.lists(st.tuples(TIMES, TIMES, st.text(max_size=30)), max_size=4),
        ),
        max_size=6,
    )
)
def test_timestamps_are_in_order_and_inside_the_recording(
    clips: list[tuple[float, float, float, list[tuple[float, float, str]]]],
) -> None:
    parts = [
        (Cut(index, start, start + length, overlap), [Segment(*segment) for segment in heard])
        for index, (start, length, overlap, heard) in enumerate(sorted(clips, key=lambda clip: clip[0]))
    ]
    segments = join_transcripts(parts, 500)
    assert all(0 <= segment.start <= segment.end <= 500 for segment in segments)
    assert all(one.end <= other.start for one, other in pairwise(segments))
    assert all(segment.text and segment.text == segment.text.strip() for segment in segments)


def test_clips_without_overlap_are_concatenated() -> None:
    clips = [(Cut(0, 1, 9), [Segment(0, 8, "One.")]), (Cut(1, 20, 30), [Segment(0.5, 9, "One."), Segment(9, 10, " ")])]
    assert join_transcripts(clips, 30) == [Segment(1, 9, "One."), Segment(20.5, 29, "One.")]


def test_clips_are_joined_at_a_word_that_both_contain() -> None:
    segments = joined(
        [Segment(0, 24, "And that was all."), Segment(25, 30, "We went to the market on a cold mor")],
        [Segment(0, 6, "mark it on a cold morning and bought apples.")],
    )
    assert texts(segments) == "And that was all. We went to the market on a cold morning and bought apples."


def test_timestamps_may_be_a_second_off() -> None:
    segments = joined(
        [Segment(26, 30, "the quick brown fox jumps")],
        [Segment(1.2, 4, "Fox jumps over the lazy dog.")],
    )
    assert texts(segments) == "the quick brown fox jumps over the lazy dog."


def test_repeated_words_keep_their_count() -> None:
    first = [Segment(27 + 0.5 * at, 27.5 + 0.5 * at, "no") for at in range(6)]
    second = [Segment(0.5 * at, 0.5 * at + 0.5, "no") for at in range(5)]
    assert len(joined(first, second)) == 8


def test_clips_without_common_words_each_keep_their_half_of_the_overlap() -> None:
    segments = joined(
        [Segment(0, 28, "before"), Segment(28.5, 29.2, "alpha"), Segment(29.3, 30, "beta")],
        [Segment(0, 0.7, "gamma"), Segment(0.8, 1.5, "delta"), Segment(2, 3, "behind")],
    )
    assert texts(segments) == "before alpha delta behind"


@pytest.mark.parametrize(
    ("first", "second"),
    [([], [Segment(0, 1, "hello")]), ([Segment(29, 30, "hello")], []), ([], [])],
)
def test_words_in_only_one_clip_are_kept(first: list[Segment], second: list[Segment]) -> None:
    assert texts(joined(first, second)) == " ".join(segment.text for segment in first + second)


def test_a_clip_after_a_missing_one_keeps_its_overlap() -> None:
    clips = [(Cut(0, 0, 30), [Segment(27, 30, "to be")]), (Cut(2, 57, 80, 1.5), [Segment(0, 4, "to be or not")])]
    assert texts(join_transcripts(clips, 80)) == "to be to be or not"


def test_scripts_without_spaces_are_joined_by_character() -> None:
    segments = joined([Segment(25, 30, "我们明天早上去北京。")], [Segment(0, 4, "上去北京。然后回家。")])
    assert texts(segments).replace(" ", "") == "我们明天早上去北京。然后回家。"


def test_case_and_punctuation_do_not_matter_for_joining() -> None:
    segments = joined([Segment(26, 30, "He said: Well, then")], [Segment(0, 3, "well then. Let us go.")])
    assert texts(segments) == "He said: Well, then Let us go."
