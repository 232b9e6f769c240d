"""Recordings of any length become speech tokens: clips, adapters and their projectors."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from model_core.audio.tensors import SAMPLE_RATE, split_clips
from model_core.checkpoints.peft_adapters import load_projector
from model_core.errors import CheckpointError, InvalidInput
from model_core.speech.encoder import SpeechEncoder
from model_core.speech.projector import SpeechProjector
from model_core.speech.whisper import WhisperEncoder

PROJECTOR = SpeechProjector.Config(encoder_width=8, model_width=12, group=5, hidden_width=16)
WHISPER = WhisperEncoder.Config(mel_bins=128, width=8, layers=1, heads=2, feed_forward=16, whole_window=True)


def encoder(*adapters: str, whisper: WhisperEncoder.Config = WHISPER) -> SpeechEncoder:
    torch.manual_seed(0)
    config = SpeechEncoder.Config(model="whisper", whisper=whisper, projector=PROJECTOR, adapters=adapters)
    return config.build().eval()


def clip(seconds: float) -> Tensor:
    return 0.1 * torch.randn(int(seconds * SAMPLE_RATE), generator=torch.Generator().manual_seed(1))


def projector_folder(folder: Path, **changed: Tensor) -> Path:
    torch.manual_seed(5)
    folder.mkdir(parents=True, exist_ok=True)
    save_file({**PROJECTOR.build().state_dict(), **changed}, folder / "projector.safetensors")
    return folder


def test_one_clip_uses_speech_and_several_use_long_speech() -> None:
    both = encoder("speech", "long_speech")
    assert [both.choose_adapter(clips) for clips in (1, 2, 240)] == ["speech", "long_speech", "long_speech"]


def test_without_a_long_speech_projector_every_recording_uses_speech() -> None:
    assert encoder("speech").choose_adapter(240) == "speech"


def test_clips_use_the_named_projector_or_the_one_for_their_length() -> None:
    both = encoder("speech", "long_speech")
    two = [clip(0.3), clip(0.4)]
    long_speech = both.encode(two, "long_speech")
    assert torch.equal(both.encode(two)[1], long_speech[1])
    assert not torch.equal(both.encode(two, "speech")[1], long_speech[1])
    torch.testing.assert_close(both.encode(two[:1])[0], both.encode(two, "speech")[0])


@pytest.mark.parametrize(("seconds", "clips"), [(29.99, 1), (30, 1), (30.01, 2), (60, 2), (90, 3)])
def test_published_models_use_three_hundred_tokens_per_started_clip(seconds: float, clips: int) -> None:
    tokens = encoder("speech").encode([each.samples for each in split_clips(clip(seconds))])
    assert [tuple(each.shape) for each in tokens] == [(300, 12)] * clips


def test_two_hours_are_seventy_two_thousand_tokens() -> None:
    clips = split_clips(torch.zeros(1).expand(2 * 60 * 60 * SAMPLE_RATE))
    assert len(clips) * WHISPER.max_frames // PROJECTOR.group == 72_000


@torch.inference_mode()
def test_a_loaded_projector_uses_its_weights(tmp_path: Path) -> None:
    grown = encoder("speech")
    load_projector(grown, "french", projector_folder(tmp_path / "french"))
    assert grown.adapters == ("speech", "french")
    torch.manual_seed(5)
    expected = PROJECTOR.build()(grown.frames([clip(1)])[0][None])[0]
    torch.testing.assert_close(grown.encode([clip(1)], "french")[0], expected)


def test_an_unloaded_projector_is_gone_and_the_others_stay(tmp_path: Path) -> None:
    grown = encoder("speech", "long_speech")
    before = grown.encode([clip(1)], "speech")[0]
    grown.unload_projector("long_speech")
    assert grown.adapters == ("speech",)
    assert torch.equal(grown.encode([clip(1)], "speech")[0], before)
    with pytest.raises(InvalidInput, match="'long_speech' is not one of speech"):
        grown.encode([clip(1)], "long_speech")
    with pytest.raises(InvalidInput, match="'long_speech' is not one of speech"):
        grown.unload_projector("long_speech")


@pytest.mark.parametrize("name", ["", "a.b", "../speech", "update", "x" * 65, "über"])
def test_an_invalid_adapter_name_is_refused(tmp_path: Path, name: str) -> None:
    grown = encoder("speech")
    with pytest.raises(InvalidInput, match="is not a valid adapter name"):
        load_projector(grown, name, projector_folder(tmp_path))
    assert grown.adapters == ("speech",)


def test_a_name_that_is_taken_is_refused(tmp_path: Path) -> None:
    grown = encoder("speech")
    before = grown.encode([clip(1)])[0]
    with pytest.raises(InvalidInput, match="'speech' is already resident"):
        load_projector(grown, "speech", projector_folder(tmp_path))
    assert torch.equal(grown.encode([clip(1)])[0], before)


def test_a_folder_without_a_projector_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="has no speech projector"):
        load_projector(encoder("speech"), "french", tmp_path)


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"linear1.weight": torch.zeros(16, 32)}, r"linear1\.weight.*\[16, 32\], expected \[16, 40\]"),
        ({"linear3.weight": torch.zeros(2)}, r"linear3\.weight"),
        ({"linear2.bias": torch.full((12,), float("nan"))}, r"linear2\.bias.*NaN"),
    ],
)
def test_a_mismatched_projector_names_its_tensor_and_changes_nothing(
    tmp_path: Path, changed: dict[str, Tensor], reason: str
) -> None:
    grown = encoder("speech")
    with pytest.raises(CheckpointError, match=reason):
        load_projector(grown, "french", projector_folder(tmp_path, **changed))
    assert grown.adapters == ("speech",)


def test_a_model_without_whispers_decoder_says_so() -> None:
    with pytest.raises(InvalidInput, match="was loaded without a decoder"):
        _ = encoder("speech").transcriber
    assert not encoder("speech").can_transcribe
