"""Streams of the voice, with the random voice: order, bounds, determinism, errors."""

# ruff: noqa: RUF001 - phonetic letters are the subject

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from model_core.errors import InvalidInput, WeightsMissing
from model_core.speech.voice import CHUNK_SECONDS, PiperVoice, Samples, TinyVoice, VoiceStream

VOICE = TinyVoice()
PIPER_CONFIG: dict[str, object] = {
    "audio": {"sample_rate": 22_050},
    "dataset": "joe",
    "phoneme_id_map": {
        symbol: [number] for number, symbol in enumerate("_^$ ,.abdefhijklmnoprstuvwzæðŋɐɑɔəɚɛɜɡɪɹɾʃʊʌˈˌː")
    },
}
TEXT = "The picture shows a circle, I think. It is red, and it stands on a white background; is that so? Yes! "


def sound_of(*deltas: str, speed: float = 1.0) -> Samples:
    stream = VOICE.new_stream(speed=speed)
    chunks = [chunk for delta in deltas for chunk in stream.push(delta)] + list(stream.finish())
    return np.concatenate(chunks) if chunks else np.zeros(0, np.int16)


@given(st.lists(st.integers(0, len(TEXT)), max_size=8).map(sorted))
def test_deltas_of_any_size_equal_the_whole_text_at_once(cuts: list[int]) -> None:
    deltas = [TEXT[start:end] for start, end in zip([0, *cuts], [*cuts, len(TEXT)], strict=True)]
    assert np.array_equal(sound_of(*deltas), sound_of(TEXT))


def test_the_same_text_always_gives_the_same_audio() -> None:
    assert np.array_equal(sound_of(TEXT), sound_of(TEXT))


def test_audio_starts_before_the_text_ends() -> None:
    stream = VOICE.new_stream()
    assert not list(stream.push("It is a circle."))
    assert list(stream.push(" And"))


def test_chunks_are_16_bit_and_bounded() -> None:
    stream = VOICE.new_stream()
    chunks = [*stream.push(TEXT * 3), *stream.finish()]
    assert all(chunk.dtype == np.int16 and chunk.ndim == 1 for chunk in chunks)
    assert all(0 < len(chunk) <= CHUNK_SECONDS * VOICE.sample_rate for chunk in chunks)


def test_clauses_fade_in_and_out_with_silence_only_between_them() -> None:
    one = VOICE.speak_clause("It is a circle.")
    two = VOICE.speak_clause("It is red.")
    assert abs(int(one[0])) < 50
    assert abs(int(one[-1])) < 50
    both = sound_of("It is a circle. It is red.")
    pause = both[len(one) : len(both) - len(two)]
    assert len(pause) > 0.1 * VOICE.sample_rate
    assert not pause.any()
    assert np.array_equal(np.concatenate([one, pause, two]), both)


def test_a_pause_after_a_comma_is_shorter_than_after_a_sentence() -> None:
    def pause(mark: str) -> int:
        clauses = f"It was a long day{mark}", "then we went home."
        return len(sound_of(" ".join(clauses))) - sum(len(VOICE.speak_clause(clause)) for clause in clauses)

    assert 0 < pause(",") < pause(".")


def test_doubling_the_speed_halves_the_duration() -> None:
    assert len(sound_of(TEXT, speed=2.0)) == pytest.approx(len(sound_of(TEXT)) / 2, rel=0.05)


def test_text_without_speakable_content_gives_no_chunks() -> None:
    assert len(sound_of(" ", "\n")) == 0


@pytest.mark.parametrize("speed", [0.0, 0.24, 4.1, -1.0, float("nan"), float("inf")])
def test_an_out_of_range_speed_is_refused(speed: float) -> None:
    with pytest.raises(InvalidInput, match="speed"):
        VOICE.new_stream(speed=speed)


def test_an_unknown_voice_is_refused_with_the_known_ones() -> None:
    with pytest.raises(InvalidInput, match="'alloy' is not one of: tiny"):
        VOICE.new_stream("alloy")
    assert isinstance(VOICE.new_stream("tiny"), VoiceStream)


def test_a_folder_without_a_voice_says_how_to_download_one(tmp_path: Path) -> None:
    with pytest.raises(WeightsMissing, match="lyra weights pull"):
        PiperVoice.load(tmp_path)


class RecordingSession:
    """Stands in for onnxruntime: records its inputs and returns a tone between two silences."""

    def __init__(self) -> None:
        self.asked: list[dict[str, NDArray[np.generic]]] = []

    def run(self, outputs: None, inputs: dict[str, NDArray[np.generic]]) -> list[NDArray[np.float32]]:
        self.asked.append(inputs)
        sound = np.zeros((1, 1, 1, 20_000), np.float32)
        sound[..., 5_000:15_000] = 0.5 * np.sin(np.arange(10_000) / 10)
        return [sound]


def test_the_piper_model_gets_padded_phonemes_and_no_noise() -> None:
    session = RecordingSession()
    piper = PiperVoice(session, PIPER_CONFIG, "en_US-joe-medium")
    piper.speak_clause("Hello.", speed=2.0)
    (asked,) = session.asked
    symbols = "".join("_^$ ,.abdefhijklmnoprstuvwzæðŋɐɑɔəɚɛɜɡɪɹɾʃʊʌˈˌː"[number] for number in asked["input"][0])
    assert symbols == "^_h_ə_l_ˈ_o_ʊ_._$"
    assert asked["input_lengths"].tolist() == [len(symbols)]
    assert asked["scales"].tolist() == [0.0, 0.5, 0.0]


def test_silence_around_the_piper_models_speech_is_trimmed() -> None:
    piper = PiperVoice(RecordingSession(), PIPER_CONFIG, "en_US-joe-medium")
    assert len(piper.speak_clause("Hello.")) == pytest.approx(10_000, abs=2 * 0.021 * 22_050)


def test_the_piper_model_does_not_run_without_speakable_text() -> None:
    session = RecordingSession()
    piper = PiperVoice(session, PIPER_CONFIG, "en_US-joe-medium")
    assert len(piper.speak("... --- \n")) == 0
    assert session.asked == []


def test_text_that_expands_is_given_to_the_piper_model_in_bounded_parts() -> None:
    session = RecordingSession()
    piper = PiperVoice(session, PIPER_CONFIG, "en_US-joe-medium")
    sound = piper.speak_clause("9" * 200, speed=0.5)
    assert len(session.asked) > 5
    assert all(asked["input"].shape[1] <= 2 * 110 + 4 for asked in session.asked)
    assert len(sound) > 5 * 10_000


def test_the_piper_voice_has_the_name_of_its_speaker() -> None:
    piper = PiperVoice(RecordingSession(), PIPER_CONFIG, "en_US-joe-medium")
    assert (piper.model, piper.voices, piper.sample_rate) == ("piper-en_US-joe-medium", ("joe",), 22_050)


def test_a_configuration_of_another_kind_is_refused() -> None:
    with pytest.raises(WeightsMissing, match="not a Piper configuration"):
        PiperVoice(RecordingSession(), {"audio": [], "phoneme_id_map": {}}, "x")
