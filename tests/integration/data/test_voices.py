"""Voices for training data; those that need a program are tested if it is installed."""

# ruff: noqa: RUF001 - phonetic letters are the subject

import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from model_core.data.kokoro import in_parts, to_kokoro
from model_core.data.voices import (
    FESTIVAL_VOICES,
    HELD_OUT_VOICE,
    TRAINING_VOICES,
    FestivalVoice,
    Prosody,
    TrainingVoice,
    VoiceMissing,
    load_voices,
)
from model_core.errors import InvalidInput

TEXT = 'He said: "It is (very) late."'


@pytest.fixture(params=["slt", "kal"])
def reader(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[TrainingVoice]:
    program = "festival" if request.param in FESTIVAL_VOICES else "flite"
    if shutil.which(program) is None:
        pytest.skip(f"{program} is not installed")
    try:
        yield load_voices(tmp_path, [request.param])[request.param]
    except VoiceMissing as missing:
        pytest.skip(str(missing))


def test_a_reading_depends_only_on_text_and_seed(reader: TrainingVoice) -> None:
    first, again, other = (reader.synthesize(TEXT, seed) for seed in (1, 1, 2))
    assert first.dtype == np.float32
    assert first.ndim == 1
    assert 0.5 < len(first) / 16_000 < 5
    assert np.array_equal(first, again)
    assert len(first) != len(other)


def test_batched_readings_equal_single_readings(reader: TrainingVoice) -> None:
    texts = [TEXT, "Another one.", "And a third."]
    together = reader.synthesize_batch(texts, [1, 2, 3])
    for samples, text, seed in zip(together, texts, [1, 2, 3], strict=True):
        assert np.array_equal(samples, reader.synthesize(text, seed))


def test_an_unvaried_voice_does_not_depend_on_the_seed(reader: TrainingVoice) -> None:
    assert np.array_equal(reader.synthesize(TEXT, 1, vary=False), reader.synthesize(TEXT, 2, vary=False))


def test_prosody_varies_around_the_voices_own() -> None:
    prosodies = [Prosody(seed, True) for seed in range(200)]
    for name, low, high in (("pace", 0.85, 1.2), ("pitch", 0.87, 1.15), ("size", 0.92, 1.1)):
        values = [getattr(prosody, name) for prosody in prosodies]
        assert low <= min(values) < low + 0.05
        assert high - 0.05 < max(values) <= high
    assert (Prosody(3, False).pace, Prosody(3, False).pitch, Prosody(3, False).size) == (1, 1, 1)


def test_the_held_out_voice_is_not_used_for_training() -> None:
    assert HELD_OUT_VOICE not in TRAINING_VOICES
    assert len(set(TRAINING_VOICES)) == len(TRAINING_VOICES) == 35


def test_an_unknown_voice_lists_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"'nobody'.*slt"):
        load_voices(tmp_path, ["nobody"])


@pytest.mark.parametrize(("voice", "package"), [("slt", "flite"), ("ked", "festvox-kdlpc16k")])
def test_a_missing_program_is_named_with_its_package(
    voice: str, package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(VoiceMissing, match=rf"apt-get install .*{package}"):
        load_voices(tmp_path, [voice])


def test_festival_without_the_voice_names_the_package_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "festival"
    program.write_text("#!/bin/sh\necho '(other_voice)'\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    with pytest.raises(VoiceMissing, match="festvox-us-slt-hts"):
        FestivalVoice("slt-hts")


@pytest.mark.parametrize(
    ("espeak", "kokoro"),
    [("dʒˈɜːni", "ʤˈɜɹni"), ("tʃˈeɪndʒ", "ʧˈAnʤ"), ("fˈɑːðɚ", "fˈɑðəɹ"), ("nˈaʊ oʊvɚ", "nˈW Ovəɹ"), ("bˈɔɪ", "bˈY")],
)
def test_phonemes_are_written_as_kokoro_writes_them(espeak: str, kokoro: str) -> None:
    assert to_kokoro(espeak) == kokoro


@given(st.text("ab ", max_size=60), st.integers(1, 12))
def test_long_texts_are_split_without_losing_anything(symbols: str, most: int) -> None:
    parts = in_parts(symbols, most)
    assert all(part.strip() == part != "" and len(part) <= most for part in parts)
    assert "".join(parts).replace(" ", "") == symbols.replace(" ", "")


def test_splits_are_between_words_where_possible() -> None:
    assert in_parts("one two threefour five", 8) == ["one two", "threefou", "r five"]
