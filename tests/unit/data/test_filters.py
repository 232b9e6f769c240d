"""Filters on planted faults: each is dropped for exactly its reason, and every clean sample is kept."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from model_core.data.conversation import Conversation, Speech
from model_core.data.data_errors import DataError, Reason
from model_core.data.filters.duplicates import Duplicates, fingerprint, rows_of_a_band
from model_core.data.filters.levels import clipping_share, silence_share
from model_core.data.filters.rules import FilterReason, Filters, Rules
from model_core.data.filters.words import blocked_words, is_in_another_language, read_blocked_words, repetition
from model_core.errors import InvalidInput
from tests.unit.data.samples import ANSWERS, RATE, dialogue, encoded, picture, seen, speech, spoken, voice

CLEAN = [*map(spoken, range(6)), *map(seen, range(6))]
ALL_RULES = Rules(
    min_seconds=0.5,
    max_seconds=5,
    languages=("en",),
    max_repetition=0.3,
    blocked=("swordfish", "open sesame"),
    max_silence=0.5,
    max_clipping=0.01,
)


def with_recording(samples: np.ndarray, transcript: str = "") -> Conversation:
    recording = Speech(data=encoded(samples), seconds=len(samples) / RATE, transcript=transcript)
    return spoken(1, id="planted", speech=(recording,))


def with_answer(answer: str) -> Conversation:
    return spoken(1, id="planted", turns=dialogue("<speech>", answer))


def clipped() -> np.ndarray:
    return np.clip(6 * voice(1), -1, 1)


def mostly_silent() -> np.ndarray:
    return np.concatenate([voice(1, 1.0), np.zeros(RATE * 2, np.float32)])


LOOP = "The cat sat on the mat and then " * 6
PLANTED: dict[str, Conversation] = {
    FilterReason.TOO_SHORT: with_recording(voice(1, 0.3)),
    FilterReason.TOO_LONG: with_recording(voice(1, 5.5)),
    FilterReason.LANGUAGE: with_answer("Die Katze schläft jeden Nachmittag auf dem roten Sofa im Wohnzimmer."),
    FilterReason.REPETITION: with_answer(LOOP),
    FilterReason.BLOCKED_WORDS: with_answer("The password is Open, sesame!"),
    FilterReason.SILENCE: with_recording(mostly_silent()),
    FilterReason.CLIPPING: with_recording(clipped()),
    Reason.AUDIO: spoken(1, speech=(Speech(data=b"no sound" * 50, seconds=1.0),)),
    Reason.IMAGE: replace(seen(1), images=(picture(1)[:-30],)),
}


@pytest.mark.parametrize("reason", PLANTED, ids=str)
def test_a_planted_fault_is_dropped_for_exactly_its_reason(reason: str) -> None:
    assert Filters(ALL_RULES).reason(PLANTED[reason]) == reason


def test_clean_samples_are_kept() -> None:
    filters = Filters(ALL_RULES)
    assert [filters.reason(sample) for sample in CLEAN] == [None] * len(CLEAN)


@pytest.mark.parametrize("reason", [each for each in PLANTED if isinstance(each, FilterReason)], ids=str)
def test_a_disabled_filter_drops_nothing(reason: FilterReason) -> None:
    assert Filters(Rules()).reason(PLANTED[reason]) is None


def test_recording_that_does_not_match_its_transcript_is_dropped() -> None:
    recognised = {len(voice(1, 1.0)): "a small black cat sleeps there", len(voice(1, 2.0)): "hmm"}
    filters = Filters(Rules(max_word_errors=0.3), transcribe=lambda samples: recognised[len(samples)])
    good, half = speech(1, 1.0, "A small, black cat sleeps there."), speech(1, 1.0, "The small dog slept there")
    wrong = speech(1, 2.0, "A small black cat sleeps there")
    silent = speech(1, 2.0, "")
    assert [filters.reason(spoken(1, speech=(each,))) for each in (good, half, wrong, silent)] == [
        None,
        FilterReason.WORD_ERRORS,
        FilterReason.WORD_ERRORS,
        None,
    ]


def test_the_named_presets_whisper_transcribes() -> None:
    """With its random weights, preset tiny's transcript matches nothing."""
    filters = Filters(Rules(max_word_errors=0.5, hearing="tiny"))
    assert filters.reason(spoken(1)) == FilterReason.WORD_ERRORS
    assert filters.reason(seen(1)) is None


@pytest.mark.parametrize(
    ("rules", "field"),
    [
        (Rules(max_silence=0.0), "max_silence"),
        (Rules(max_clipping=1.5), "max_clipping"),
        (Rules(near_duplicates=80), "near_duplicates"),
        (Rules(max_repetition=-1), "max_repetition"),
        (Rules(min_seconds=5, max_seconds=2), "min_seconds"),
        (Rules(max_word_errors=-0.1), "max_word_errors"),
        (Rules(languages=("en", "english")), "languages"),
    ],
)
def test_an_invalid_threshold_is_named(rules: Rules, field: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        Filters(rules)
    assert caught.value.field == field


def test_planted_shares_of_silence_and_clipping_are_measured() -> None:
    assert silence_share(mostly_silent()) == pytest.approx(2 / 3, abs=0.02)
    assert silence_share(voice(1)) < 0.05
    assert silence_share(np.zeros(RATE, np.float32)) == 1.0
    assert silence_share(np.zeros(5, np.float32)) == 1.0
    peaks = np.zeros(1000, np.float32)
    peaks[100:110] = 1.0
    peaks[500] = -1.0  # a single peak is no clipping
    peaks[700:703] = -1.0
    assert clipping_share(peaks) == pytest.approx(0.013)
    assert clipping_share(peaks[:0]) == 0.0


@given(st.floats(0.01, 1.0))
def test_silence_does_not_depend_on_loudness(gain: float) -> None:
    quiet = (gain * mostly_silent()).astype(np.float32)
    assert silence_share(quiet) == pytest.approx(silence_share(mostly_silent()), abs=0.01)


def test_repetition_is_the_share_of_repeated_sequences() -> None:
    assert repetition("one two three four " * 5) == pytest.approx(1 - 4 / 17)
    assert repetition(" ".join(f"word{number}" for number in range(100))) == 0.0
    assert repetition("no no no no no no") == 0.0  # too short to be a loop


@pytest.mark.parametrize("text", ["yes", "a cat", "blue", "42", "Ishmael", "Is there a red circle?", *ANSWERS])
def test_short_and_english_texts_count_as_english(text: str) -> None:
    assert not is_in_another_language(text, ("en",))


@pytest.mark.parametrize(
    "text", ["Wo ist bitte der Bahnhof?", "Bonjour, comment allez-vous aujourd'hui ?", "这是什么颜色的"]
)
def test_other_languages_are_detected(text: str) -> None:
    assert is_in_another_language(text, ("en",))
    assert not is_in_another_language(text, ("en", "de", "fr", "zh"))


def test_blocked_words_match_whole_words_in_any_case(tmp_path: Path) -> None:
    path = tmp_path / "blocked.txt"
    path.write_text("Swordfish  # the fish\n\n# only a remark\nopen  sesame\n")
    phrases = read_blocked_words(path)
    assert phrases == ("open sesame", "swordfish")
    assert blocked_words("SWORDFISH! Open - sesame.", phrases) == ["open sesame", "swordfish"]
    assert blocked_words("swordfishes, sesame, open", phrases) == []
    path.write_text("# nothing\n")
    with pytest.raises(DataError, match="contains no word"):
        read_blocked_words(path)
    with pytest.raises(DataError, match="cannot be read"):
        read_blocked_words(tmp_path / "none.txt")


def verdicts(samples: list[Conversation], *, exact: bool = True, similarity: float | None = 0.8) -> list[str | None]:
    duplicates = Duplicates(exact=exact, similarity=similarity)
    return [duplicates.reason(fingerprint(sample)) for sample in samples]


def test_the_same_sample_under_another_id_is_a_duplicate() -> None:
    again = replace(spoken(1), id="again", source="elsewhere")
    assert verdicts([spoken(1), spoken(2), again]) == [None, None, FilterReason.DUPLICATE]
    assert verdicts([spoken(1), again], exact=False, similarity=None) == [None, None]


def test_nearly_the_same_words_are_a_near_duplicate() -> None:
    words = " ".join(f"{word}{number}" for number in range(12) for word in ("the captain", "wrote", "letters of"))
    first = spoken(1, turns=dialogue("<speech>", words))
    near = spoken(1, id="near", turns=dialogue("<speech>", words.replace("wrote5", "sent5")), speech=(speech(9),))
    half = spoken(1, id="half", turns=dialogue("<speech>", words[: len(words) // 2]), speech=(speech(8),))
    assert verdicts([first, near, half]) == [None, FilterReason.NEAR_DUPLICATE, None]
    assert verdicts([first, near], similarity=0.99) == [None, None]


def test_another_voice_or_picture_is_not_a_duplicate() -> None:
    other_voice = replace(spoken(1), speech=(replace(spoken(1).speech[0], voice="awb"),))
    other_picture = replace(seen(1), images=(picture(77),))
    assert verdicts([spoken(1), other_voice, seen(1), other_picture])[1:] == [FilterReason.DUPLICATE, None, None]
    assert (
        verdicts(
            [
                spoken(1),
                replace(other_voice, speech=(speech(5, transcript=spoken(1).speech[0].transcript, voice_name="awb"),)),
                seen(1),
                other_picture,
            ]
        )
        == [None] * 4
    )


def test_different_short_answers_are_not_near_duplicates() -> None:
    pairs = [("Is there a circle?", "yes"), ("Is there a square?", "yes"), ("Is there a circle?", "no"), ("?", "!")]
    samples = [replace(seen(1), turns=dialogue(f"<image>{ask}", tell)) for ask, tell in pairs]
    assert verdicts(samples, similarity=0.9) == [None] * 4


@pytest.mark.parametrize("similarity", [0.5, 0.7, 0.8, 0.9, 0.95])
def test_minhash_bands_find_pairs_of_the_given_similarity(similarity: float) -> None:
    rows = rows_of_a_band(similarity)
    assert 128 % rows == 0
    assert 1 - (1 - similarity**rows) ** (128 // rows) >= 0.95
    longer = 2 * rows
    assert 1 - (1 - similarity**longer) ** (128 // longer) < 0.95
