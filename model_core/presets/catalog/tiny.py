"""Preset tiny: nano's modules with a few random weights, for tests that take milliseconds. It understands nothing.

The shapes are in `model_core/presets/tiny.py`.
"""

from typing import TYPE_CHECKING

from model_core.presets.preset import BuildOptions, Preset, WeightSource

if TYPE_CHECKING:
    from model_core.engine.language_model import LanguageModel
    from model_core.presets.stages import StageTable
    from model_core.speech.encoder import SpeechEncoder
    from model_core.speech.unit_generator import UnitGenerator
    from model_core.speech.voice import Voice
    from model_core.vision.encoder import VisionEncoder


def speech_encoder(options: BuildOptions) -> "SpeechEncoder":
    """A random Whisper with a projector, and a transcriber that makes words up."""
    from model_core.presets import tiny
    from model_core.presets.building import chosen_device, seeded
    from model_core.speech.encoder import SpeechEncoder
    from model_core.speech.random_transcriber import random_transcriber

    device, config = chosen_device(options.device), tiny.SPEECH_ENCODER
    with seeded():
        encoder = SpeechEncoder(config).to(device).eval()
    encoder.transcriber = random_transcriber(config.whisper.width, encoder.frames_with_tail, device)
    return encoder


def vision_encoder(options: BuildOptions) -> "VisionEncoder":
    """A random image encoder with its projector."""
    from model_core.presets import tiny
    from model_core.presets.building import chosen_device, seeded

    device = chosen_device(options.device)
    with seeded():
        return tiny.VISION_ENCODER.build().to(device)


def language_model(options: BuildOptions) -> "LanguageModel":
    """A random decoder with the adapters `speech` and `vision`."""
    import torch

    from model_core.engine.language_model import LanguageModel
    from model_core.presets import tiny
    from model_core.presets.building import chosen_device, seeded

    device = chosen_device(options.device)
    with seeded():
        decoder = tiny.LANGUAGE.build()
        # With small embeddings the layers decide, so that answers do not just repeat the last letter.
        torch.nn.init.normal_(decoder.embed_tokens.weight, std=0.1)
        for adapter in ("speech", "vision"):
            decoder.add_adapter(adapter, tiny.LORA, tiny.LORA_PROJECTIONS)
    return LanguageModel(tiny.LANGUAGE_MODEL, decoder.to(device), tiny.tokenizer())


def voice(options: BuildOptions) -> "Voice":
    """Tones for a text, and others for hidden states; without torch."""
    from model_core.speech.voice import TinyHiddenVoice, TinyVoice
    from model_core.speech.voices import Voices

    return Voices(TinyVoice(), TinyHiddenVoice())


def training() -> "StageTable":
    """Hyperparameters of each stage."""
    from model_core.presets.tiny import TRAINING

    return TRAINING


def unit_generator() -> "UnitGenerator.Config":
    """Shape of the speech generator that stage 4 trains."""
    from model_core.presets.tiny import UNIT_GENERATOR

    return UNIT_GENERATOR


PRESET = Preset(
    name="tiny",
    description="nano's modules with a few random weights, for tests",
    weights=WeightSource.RANDOM,
    speech_encoder=speech_encoder,
    vision_encoder=vision_encoder,
    language_model=language_model,
    voice=voice,
    training=training,
    unit_generator=unit_generator,
)
