"""What the presets of the published method share (Lyra, arXiv 2412.09501, and its released checkpoints)."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from model_core.language.decoder import Decoder
from model_core.language.extractor import ExtractionConfig
from model_core.language.lora import PROJECTIONS, LoraConfig
from model_core.language.prompt import ChatTemplate
from model_core.speech.encoder import LONG_SPEECH, SPEECH, SpeechEncoder
from model_core.speech.unit_generator import UnitGenerator
from model_core.speech.vocoder import DurationPredictor, UnitVocoder
from model_core.speech.whisper import WhisperEncoder
from model_core.vision.clip import ClipVisionEncoder
from model_core.vision.qwen import QwenVisionEncoder


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedPreset:
    """Everything that a folder in the published layout holds, as shapes.

    `language_dtype` is what the language model's weights are cast to; None for what this processor is fastest with.
    """

    model: str
    language: Decoder.Config
    template: ChatTemplate
    adapters: Mapping[str, LoraConfig]
    adapter_projections: tuple[str, ...]
    extraction: ExtractionConfig
    speech_encoder: SpeechEncoder.Config
    vision_encoder: QwenVisionEncoder.Config | ClipVisionEncoder.Config
    unit_generator: UnitGenerator.Config
    vocoder: UnitVocoder.Config
    language_dtype: torch.dtype | None = None


# Whisper large-v3 and large-v3-turbo have the same encoder; their decoders have 32 and 4 layers.
WHISPER_LARGE = WhisperEncoder.Config(
    mel_bins=128, width=1280, layers=32, heads=20, feed_forward=5120, max_frames=1500, whole_window=True
)

# 5 frames of 20 ms make a speech token: 300 a clip of 30 s, 72,000 for two hours.
SPEECH_GROUP, SPEECH_HIDDEN = 5, 2048

ADAPTERS = {SPEECH: LoraConfig(rank=64, alpha=16), LONG_SPEECH: LoraConfig(rank=128, alpha=256)}
ADAPTER_PROJECTIONS = PROJECTIONS

# Four blocks; nothing is dropped until a request, or the checkpoint's own configuration, names a keep rate under 1.
EXTRACTION = ExtractionConfig(blocks=4, keep_rate=1.0)

# Positions that the `long_speech` adapter was trained on (stage 3); Qwen2-VL's own configuration says 32,768.
LONG_CONTEXT = 131_072

VOCODER = UnitVocoder.Config(
    units=1000,
    embedding_width=128,
    channels=512,
    upsample_rates=(5, 4, 4, 2, 2),  # 320 samples a unit frame
    upsample_kernels=(11, 8, 8, 4, 4),
    block_kernels=(3, 7, 11),
    block_dilations=((1, 3, 5), (1, 3, 5), (1, 3, 5)),
    duration=DurationPredictor.Config(width=128, hidden_width=128, kernel=3),
    sample_rate=16_000,
)
