"""Whisper's encoder and features against transformers, and what batching must not change."""

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import WhisperFeatureExtractor
from transformers.models.whisper.modeling_whisper import WhisperEncoder as OracleEncoder

from model_core.errors import InvalidInput
from model_core.presets import build_speech_encoder
from model_core.speech.features import log_mel
from model_core.speech.projector import SpeechProjector
from model_core.speech.whisper import WhisperEncoder
from tests.paths import DATA
from tests.unit.speech.tiny_whisper import FEED_FORWARD, HEADS, LAYERS, WIDTH, oracle_config

pytestmark = pytest.mark.kernels


def config(bins: int, *, whole_window: bool = False) -> WhisperEncoder.Config:
    return WhisperEncoder.Config(
        mel_bins=bins,
        width=WIDTH,
        layers=LAYERS,
        heads=HEADS,
        feed_forward=FEED_FORWARD,
        tail_frames=1500,
        whole_window=whole_window,
    )


def oracle(bins: int) -> OracleEncoder:
    torch.manual_seed(0)
    return OracleEncoder(oracle_config(num_mel_bins=bins)).eval()


def clip(seconds: float, seed: int = 0) -> Tensor:
    return torch.randn(int(seconds * 16_000), generator=torch.Generator().manual_seed(seed)) * 0.1


def padded(samples: Tensor) -> Tensor:
    return torch.nn.functional.pad(samples, (0, 480_000 - len(samples)))


@pytest.mark.parametrize("bins", [80, 128])
def test_features_are_those_of_transformers(bins: int) -> None:
    theirs = WhisperFeatureExtractor(feature_size=bins)(clip(1.3).numpy(), sampling_rate=16_000, return_tensors="pt")
    torch.testing.assert_close(log_mel(padded(clip(1.3)), bins), theirs.input_features[0], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("bins", [80, 128])
@torch.inference_mode()
def test_a_padded_window_gives_the_frames_of_transformers(bins: int) -> None:
    reference = oracle(bins)
    encoder = config(bins).build().eval()
    encoder.load_state_dict(reference.state_dict())
    theirs = reference(log_mel(padded(clip(2)), bins)[None]).last_hidden_state[0, :100]
    torch.testing.assert_close(encoder.encode([clip(2)])[0], theirs, atol=1e-4, rtol=1e-4)


@torch.inference_mode()
def test_published_models_get_every_frame_of_the_padded_window_that_transformers_makes() -> None:
    reference = oracle(128)
    encoder = config(128, whole_window=True).build().eval()
    encoder.load_state_dict(reference.state_dict())
    clips = [clip(2), clip(30, seed=1)]
    features = WhisperFeatureExtractor(feature_size=128)([each.numpy() for each in clips], sampling_rate=16_000)
    theirs = reference(torch.tensor(features["input_features"])).last_hidden_state
    torch.testing.assert_close(torch.stack(encoder.encode(clips)), theirs, atol=1e-4, rtol=1e-4)


@torch.inference_mode()
def test_frames_of_a_clip_do_not_depend_on_its_batch() -> None:
    encoder = build_speech_encoder("tiny")
    clips = [clip(0.5, 1), clip(2.03, 2), clip(0.011, 3), clip(1, 4)]
    for alone, batched in zip((encoder.frames([c])[0] for c in clips), encoder.frames(clips), strict=True):
        torch.testing.assert_close(batched, alone, atol=1e-4, rtol=1e-4)


def test_frames_of_trailing_silence_do_not_change_the_clips_own() -> None:
    encoder = build_speech_encoder("tiny")
    clips = [clip(0.5, 1), clip(29.5, 2), clip(30, 3)]
    with_tail = encoder.frames_with_tail(clips)
    assert [len(frames) for frames in with_tail] == [75, 1500, 1500]
    for own, longer in zip(encoder.frames(clips), with_tail, strict=True):
        torch.testing.assert_close(longer[: len(own)], own)


def test_bfloat16_layers_give_nearly_the_same_frames() -> None:
    torch.manual_seed(0)
    encoder = config(80).build().eval()
    clips = [clip(12), clip(7, seed=1)]  # alone and beside a longer one: attention is computed in two ways
    exact = encoder.encode(clips)
    encoder.set_compute_dtype(torch.bfloat16)
    for near in (encoder.encode(clips), [encoder.encode([each])[0] for each in clips]):
        for ours, theirs in zip(near, exact, strict=True):
            assert torch.nn.functional.cosine_similarity(ours, theirs, dim=-1).min() > 0.999


def test_there_are_fifty_frames_a_second_and_never_more_than_a_window_holds() -> None:
    encoder = build_speech_encoder("tiny")
    assert [len(frames) for frames in encoder.frames([clip(1), clip(0.5001), clip(30)])] == [50, 26, 1500]


def test_the_shortest_clip_gives_one_token() -> None:
    tokens = build_speech_encoder("tiny").encode([clip(0.001), clip(1)])
    assert [len(t) for t in tokens] == [1, 12]


def test_an_unknown_adapter_is_named() -> None:
    with pytest.raises(InvalidInput, match="'french' is not one of speech"):
        build_speech_encoder("tiny").encode([clip(1)], "french")


def test_the_projector_reproduces_the_published_method() -> None:
    stored = {name: tensor.float() for name, tensor in load_file(DATA / "parity" / "projector.safetensors").items()}
    projector = SpeechProjector.Config(encoder_width=32, model_width=24).build()
    projector.load_state_dict({k.removeprefix("weight."): v for k, v in stored.items() if k.startswith("weight.")})
    torch.testing.assert_close(projector(stored["input"]), stored["output"], atol=1e-4, rtol=1e-4)
