"""Speech tokens and transcripts from one pass equal those of encoding and transcribing, in any batch."""

import json
from collections.abc import Iterator
from functools import cache

import pytest
import torch
from torch import Tensor

from model_core.audio.tensors import SAMPLE_RATE, Clip, decode_audio
from model_core.checkpoints.store import part_folder
from model_core.errors import InvalidInput, WeightsMissing
from model_core.presets import build_speech_encoder, lyra_home
from model_core.speech.encoder import SpeechEncoder, TranscribedClip
from model_core.speech.segments import Segment
from model_core.speech.transcriber import DecodingOptions, Transcriber
from model_core.speech.whisper_decoder import DecoderState
from tests.paths import DATA
from tests.unit.speech.test_transcriber import TOKENIZER, TOKENS, Scripted, letters, timestamp
from tests.unit.speech.tiny_whisper import clip, frames_of

pytestmark = pytest.mark.kernels
PRESETS = ("tiny", "nano")


@cache
def encoder(preset: str) -> SpeechEncoder:
    try:
        if preset == "nano":
            part_folder(lyra_home(), preset, "speech_encoder")
    except WeightsMissing as missing:
        pytest.skip(str(missing))
    return build_speech_encoder(preset, fast=True)


def held_out_sentences(which: slice) -> list[Clip]:
    """A sample of 200 recorded sentences of several voices, of one to five seconds."""
    files = [DATA / "held_out" / f"sentences-{voices}.jsonl" for voices in ("known-voices", "held-out-voice")]
    lines = [line for file in files for line in file.read_text().splitlines()][which]
    return [_clip(decode_audio(DATA / "held_out" / json.loads(line)["audio"], max_seconds=30)) for line in lines]


@cache
def recordings() -> list[Clip]:
    """Sentences of several voices, and noise."""
    noise = 0.1 * torch.randn(SAMPLE_RATE, generator=torch.Generator().manual_seed(1))
    return [*held_out_sentences(slice(4)), _clip(noise)]


def _clip(samples: Tensor) -> Clip:
    return Clip(0, 0.0, len(samples) / SAMPLE_RATE, samples)


def encode_and_transcribe(model: SpeechEncoder, clips: list[Clip], language: str = "") -> list[TranscribedClip]:
    encoded = model.encode_clips(clips, ["speech"] * len(clips))
    return [each for each in model.transcribe(encoded, language) if each is not None]


def nearly_same_tokens(one: Tensor, other: Tensor) -> None:
    assert one.shape == other.shape
    assert torch.nn.functional.cosine_similarity(one, other, dim=-1).min() > 0.99


@pytest.mark.parametrize("preset", PRESETS)
def test_one_pass_equals_encoding_plus_transcribing(preset: str) -> None:
    model = encoder(preset)
    for each in recordings():
        (found,) = encode_and_transcribe(model, [each])
        assert torch.equal(found.tokens_NE, model.encode([each.samples], "speech")[0])
        assert found.segments == list(model.transcriber.transcribe([each]))
        assert found.language == "en"


@pytest.mark.parametrize("preset", PRESETS)
def test_clip_result_is_independent_of_its_batch(preset: str) -> None:
    model, clips = encoder(preset), recordings()
    alone = [encode_and_transcribe(model, [each])[0] for each in clips]
    for order in ([0, 1, 2, 3, 4], [3, 1], [4, 4, 2, 0]):
        for row, found in zip(order, encode_and_transcribe(model, [clips[row] for row in order]), strict=True):
            assert torch.equal(found.tokens_NE, alone[row].tokens_NE)
            assert found.segments == alone[row].segments
    assert any(found.segments for found in alone)


@pytest.mark.parametrize("preset", PRESETS)
def test_clips_encode_the_same_in_a_batch_and_alone(preset: str) -> None:
    model, samples = encoder(preset), [each.samples for each in recordings()]
    for together, alone in zip(model.encode(samples, "speech"), samples, strict=True):
        assert torch.equal(together, model.encode([alone], "speech")[0])


@pytest.mark.parametrize("preset", PRESETS)
def test_transcript_of_many_clips_joins_the_transcripts_of_each(preset: str) -> None:
    model, clips = encoder(preset), recordings()
    alone = [segment for each in clips for segment in model.transcriber.transcribe([each], "en")]
    assert list(model.transcriber.transcribe(clips, "en")) == alone


@pytest.mark.parametrize("preset", PRESETS)
def test_bfloat16_weights_give_nearly_the_same_tokens(preset: str) -> None:
    encoder(preset)  # skips the test without weights
    exact, rounded = build_speech_encoder(preset), build_speech_encoder(preset)
    rounded.set_compute_dtype(torch.bfloat16)
    samples = recordings()[0].samples
    nearly_same_tokens(rounded.encode([samples])[0], exact.encode([samples])[0])


def test_silent_clip_has_tokens_but_no_words_and_no_language() -> None:
    silent = Clip(0, 0.0, 1.0, torch.zeros(SAMPLE_RATE))
    model = encoder("tiny")
    quiet, spoken = encode_and_transcribe(model, [silent, recordings()[0]])
    assert (quiet.segments, quiet.language) == ([], "")
    assert torch.equal(quiet.tokens_NE, model.encode([silent.samples])[0])
    assert spoken.segments


def test_transcription_yields_between_steps() -> None:
    model = encoder("tiny")
    steps = list(model.transcribe(model.encode_clips([clip(29.0), clip(29.0)], ["speech"] * 2), "en"))
    assert len(steps) > 2
    assert steps[:-2] == [None] * (len(steps) - 2)
    assert None not in steps[-2:]


def test_unknown_adapter_or_language_raises_at_the_call() -> None:
    model = encoder("tiny")
    with pytest.raises(InvalidInput, match="'french' is not one of"):
        model.encode_clips([clip(1)], ["french"])
    with pytest.raises(InvalidInput, match="'tlh' is not supported"):
        model.transcribe(model.encode_clips([clip(1)], ["speech"]), "tlh")


def test_remainder_of_a_clip_is_transcribed_and_stays_with_its_clip() -> None:
    def left_open(word: str) -> list[int]:
        return [timestamp(0), *letters(word), timestamp(2), timestamp(2)]

    scripts = [
        [],
        left_open("one"),
        left_open("two"),
        [timestamp(0), *letters("three"), timestamp(1)],
        [timestamp(0), *letters("more"), timestamp(1)],
    ]
    transcriber = Transcriber(Scripted(scripts), TOKENIZER, frames_of)
    clips = [_two_levels(1, 4), clip(3, start=30, level=3), _two_levels(2, 4)]
    found: list[list[Segment]] = []

    def batch_steps() -> Iterator[None]:
        found.extend(
            (yield from transcriber.transcribe_batch(clips, frames_of([each.samples for each in clips]), "en"))
        )

    for _ in batch_steps():
        pass
    assert [[segment.text for segment in segments] for segments in found] == [
        ["one", "more"],
        ["three"],
        ["two", "more"],
    ]


class Undecided(Scripted):
    """Any of eight letters may follow, with low probability; the first token differs by row."""

    def forward(self, tokens_BL: Tensor, state: DecoderState) -> Tensor:
        logits_BV = super().forward(tokens_BL, state)
        logits_BV[:, letters("abcdefgh")] = 9.0
        logits_BV[:, TOKENS.end] = 0.0
        return logits_BV


def test_sampling_of_a_clip_is_independent_of_the_others() -> None:
    decoder = Undecided([[timestamp(0.1 * row)] for row in range(4)])
    sampling = Transcriber(decoder, TOKENIZER, frames_of, DecodingOptions(temperatures=(0.0, 0.9), max_tokens=40))
    clips = [clip(20, level=level) for level in (1, 2, 3)]
    together = [segment.text for segment in sampling.transcribe(clips, "en")]
    assert together == [segment.text for each in clips for segment in sampling.transcribe([each], "en")]
    assert len(together) == 3
    assert all(len(set(text)) > 2 for text in together)  # sampled: the likeliest letter is always the same


def _two_levels(first: float, then: float) -> Clip:
    samples = torch.cat([torch.full((2 * SAMPLE_RATE,), float(first)), torch.full((3 * SAMPLE_RATE,), float(then))])
    return Clip(0, 0.0, 5.0, samples)
