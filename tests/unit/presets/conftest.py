"""A checkpoint for all preset tests."""

from pathlib import Path

import pytest

from model_core.checkpoints.exporting import export
from model_core.presets import build_language_model, build_speech_encoder, build_vision_encoder
from model_core.presets.building import seeded
from model_core.presets.catalog.tiny_qwen2_vl import architecture
from model_core.speech.projector import SpeechProjector
from model_core.vision.qwen import QwenVisionEncoder

TINY = "tiny-qwen2-vl"
WHISPER = "whisper-large-v3"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The miniature as a checkpoint."""
    language, speech, vision = build_language_model(TINY), build_speech_encoder(TINY), build_vision_encoder(TINY)
    assert isinstance(vision, QwenVisionEncoder)
    with seeded():
        generator, vocoder = architecture().unit_generator.build(), architecture().vocoder.build()
    export(
        tmp_path / "checkpoint",
        decoder=language.decoder,
        tokenizer=language.tokenizer,
        speech=speech.whisper,
        speech_projectors={name: each for name, each in speech.projectors.items() if isinstance(each, SpeechProjector)},
        vision=vision,
        speech_generator=generator,
        vocoder=vocoder,
        names={"speech_tower": WHISPER},
    )
    return tmp_path / "checkpoint"
