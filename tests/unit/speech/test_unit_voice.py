"""The voice that speaks from hidden states: streams against one pass, the Voice protocol, errors."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from model_core.errors import CheckpointError, InvalidInput
from model_core.speech.unit_generator import UnitGenerator
from model_core.speech.unit_voice import UnitVoice
from model_core.speech.vocoder import DurationPredictor, UnitVocoder
from model_core.speech.voice import CHUNK_SECONDS, Samples, TinyVoice, Voice

WIDTH = 12


def random_voice(units: int = 40, *, durations: bool = True) -> UnitVoice:
    torch.manual_seed(0)
    generator = UnitGenerator.Config(
        hidden_width=WIDTH, layers=1, width=16, heads=2, feed_forward=24, upsample=5, units=40
    )
    vocoder = UnitVocoder.Config(
        units=units,
        embedding_width=6,
        channels=16,
        upsample_rates=(5, 4),
        upsample_kernels=(11, 8),
        block_kernels=(3,),
        block_dilations=((1, 3),),
        duration=DurationPredictor.Config(width=6, hidden_width=4) if durations else None,
    ).build()
    if vocoder.dur_predictor:
        torch.nn.init.constant_(vocoder.dur_predictor.proj.bias, 4.0)  # units that last about a second
    for layer in (vocoder.conv_pre, *vocoder.ups, vocoder.conv_post):
        torch.nn.init.normal_(layer.weight, std=0.3)
    return UnitVoice(generator.build(), vocoder, "lyra")


VOICE = random_voice()
HIDDEN = 3.0 * np.random.default_rng(0).standard_normal((40, WIDTH)).astype(np.float32)


def sound_of(*chunks: NDArray[np.float32], voice: UnitVoice = VOICE, speed: float = 1.0) -> Samples:
    stream = voice.new_stream(speed=speed)
    heard = [sound for chunk in chunks for sound in stream.push_hidden(chunk)] + list(stream.finish())
    return np.concatenate(heard) if heard else np.zeros(0, np.int16)


def test_there_is_audio_to_compare() -> None:
    sound = sound_of(HIDDEN)
    assert sound.dtype == np.int16
    assert len(sound) > 1_000
    assert sound.std() > 1_000


@settings(max_examples=20)
@given(st.lists(st.integers(0, len(HIDDEN)), max_size=6).map(sorted))
def test_chunks_of_any_size_equal_the_whole_answer_at_once(cuts: list[int]) -> None:
    chunks = [HIDDEN[start:end] for start, end in zip([0, *cuts], [*cuts, len(HIDDEN)], strict=True)]
    whole = sound_of(HIDDEN).astype(int)
    assert np.abs(sound_of(*chunks).astype(int) - whole).max() <= 1


def test_batched_streams_equal_single_streams() -> None:
    answers = [HIDDEN[:7], HIDDEN[10:30], HIDDEN[:0], HIDDEN[3:4]]
    states = [VOICE.new_state() for _ in answers]
    heard = [VOICE.step(states, [torch.tensor(answer[:5]) for answer in answers], [False] * 4)]
    heard.append(VOICE.step(states, [torch.tensor(answer[5:]) for answer in answers], [True] * 4))
    for answer, *parts in zip(answers, *heard, strict=True):
        together, alone = np.concatenate(parts).astype(int), sound_of(answer).astype(int)
        assert together.shape == alone.shape
        assert np.abs(together - alone).max(initial=0) <= 1


def test_audio_starts_before_the_answer_ends() -> None:
    stream = VOICE.new_stream()
    heard = [len(list(stream.push_hidden(state[None]))) for state in HIDDEN]
    assert any(heard[:10])


def test_chunks_are_16_bit_and_bounded() -> None:
    stream = VOICE.new_stream(speed=0.25)
    chunks = [*stream.push_hidden(HIDDEN), *stream.finish()]
    assert len(chunks) > 1
    assert all(chunk.dtype == np.int16 and 0 < len(chunk) <= CHUNK_SECONDS * VOICE.sample_rate for chunk in chunks)


def test_doubling_the_speed_halves_the_duration() -> None:
    assert len(sound_of(HIDDEN, speed=2.0)) == pytest.approx(len(sound_of(HIDDEN)) / 2, rel=0.05)


def test_an_answer_without_tokens_is_silent() -> None:
    assert len(sound_of()) == 0


@pytest.mark.parametrize(
    "wrong",
    [np.zeros((1, WIDTH + 1), np.float32), np.zeros(WIDTH, np.float32), np.full((1, WIDTH), np.nan, np.float32)],
    ids=["width", "dimensions", "nan"],
)
def test_mismatched_hidden_states_are_refused_and_the_stream_continues(wrong: NDArray[np.float32]) -> None:
    stream = VOICE.new_stream()
    heard = list(stream.push_hidden(HIDDEN[:20]))
    with pytest.raises(InvalidInput, match="hidden_states"):
        stream.push_hidden(wrong)
    heard += [*stream.push_hidden(HIDDEN[20:]), *stream.finish()]
    assert np.abs(np.concatenate(heard).astype(int) - sound_of(HIDDEN).astype(int)).max() <= 1


def test_a_read_only_array_is_accepted() -> None:
    read_only = np.frombuffer(HIDDEN.tobytes(), np.float32).reshape(HIDDEN.shape)
    assert np.array_equal(sound_of(read_only), sound_of(HIDDEN))


def test_an_ended_stream_accepts_no_more_input() -> None:
    stream = VOICE.new_stream()
    stream.finish()
    with pytest.raises(InvalidInput, match="has ended"):
        stream.push_hidden(HIDDEN)


def test_voices_declare_the_input_that_they_speak_from() -> None:
    voices: list[Voice] = [VOICE, TinyVoice()]
    assert [voice.hidden_width for voice in voices] == [WIDTH, 0]
    with pytest.raises(InvalidInput, match="text"):
        voices[0].new_stream().push("Hello.")
    with pytest.raises(InvalidInput, match="hidden_states"):
        voices[1].new_stream().push_hidden(HIDDEN)


def test_an_invalid_voice_or_speed_is_refused() -> None:
    with pytest.raises(InvalidInput, match="'alloy' is not one of: lyra"):
        VOICE.new_stream("alloy")
    with pytest.raises(InvalidInput, match="speed"):
        VOICE.new_stream(speed=5.0)
    with pytest.raises(InvalidInput, match="speed"):
        random_voice(durations=False).new_stream(speed=2.0)
    assert len(sound_of(HIDDEN, voice=random_voice(durations=False)))


def test_a_vocoder_with_fewer_units_than_the_generator_is_refused() -> None:
    with pytest.raises(CheckpointError, match="30 units, the generator 40"):
        random_voice(units=30)
