"""Nano's units: phonemes, and their durations in frames of the voice."""

# ruff: noqa: RUF001 - phonetic letters are the subject

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from model_core.errors import CheckpointError
from model_core.speech.codebook import read_codebook, write_codebook
from model_core.speech.latents import Utterance
from model_core.speech.phone_units import PHONES, answer_phonemes, phone_units, units_with_durations, unstressed
from model_core.text.phonemes import EnglishPhonemes


def names(units: list[int]) -> list[str]:
    return [PHONES[unit] for unit in units]


def test_units_are_phonemes_with_stress_and_punctuation() -> None:
    assert names(phone_units("həlˈoʊ, juː.")) == ["h", "ə", "l", "ˈo", "ʊ", ",", "j", "u", "."]


def test_rare_phonemes_are_mapped_to_common_ones() -> None:
    assert names(phone_units("bˈʌt̩n; lɑːx")) == ["b", "ˈʌ", "t", "n", ",", "l", "ɑ", "k"]


def test_pads_stresses_and_blanks_belong_to_their_phoneme() -> None:
    symbols = ["^", "_", "ˈ", "_", "a", "_", "ː", "_", " ", "_", "b", "_", ".", "_", "$"]
    frames = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15]
    found = units_with_durations(symbols, frames)
    assert names([unit for unit, _ in found]) == ["ˈa", "b", "."]
    assert [length for _, length in found] == [55, 23, 42]


@given(st.lists(st.tuples(st.sampled_from("^$_ˈˌː abdˈɪz.,"), st.integers(0, 9)), min_size=1))
def test_no_frame_is_lost(symbols: list[tuple[str, int]]) -> None:
    found = units_with_durations([symbol for symbol, _ in symbols], [length for _, length in symbols])
    assert not found or sum(length for _, length in found) == sum(length for _, length in symbols)


def test_an_answer_of_several_clauses_keeps_a_pause_between_them() -> None:
    said = answer_phonemes("Two things:\n- An apple\n- A pear", EnglishPhonemes())
    assert names(phone_units(said)).count(",") == 3
    assert answer_phonemes("...\n\n", EnglishPhonemes()) == ""


def reading(units: list[int], durations: list[int], seed: int) -> Utterance:
    latents = np.random.default_rng(seed).standard_normal((sum(durations), 3)).astype(np.float32)
    return Utterance(latents, tuple(units), tuple(durations))


def test_a_codebook_holds_readings_and_the_mean_latents_of_each_unit(tmp_path: Path) -> None:
    stressed = PHONES.index("ˈɪ")
    plain = unstressed(stressed)
    path, readings = tmp_path / "codebook.safetensors", [reading([plain, 4], [3, 2], 0), reading([4], [4], 1)]
    write_codebook(path, readings)
    codebook = read_codebook(path)
    found = codebook.utterances()
    assert [units.tolist() for units, _, _ in found] == [[plain, 4], [4]]
    assert [durations.tolist() for _, durations, _ in found] == [[3, 2], [4]]
    torch.testing.assert_close(codebook.centroids_UC[plain], found[0][2][:3].mean(0), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(codebook.centroids_UC[stressed], codebook.centroids_UC[plain])
    assert not codebook.centroids_UC[7].any()
    again = tmp_path / "again.safetensors"
    write_codebook(again, readings)
    assert again.read_bytes() == path.read_bytes()


def test_a_file_that_is_no_codebook_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "codebook.safetensors").write_bytes(b"nothing of the kind")
    with pytest.raises(CheckpointError, match=r"codebook\.safetensors.*is not a codebook"):
        read_codebook(tmp_path / "codebook.safetensors")
