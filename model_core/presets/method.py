"""What the presets of the published method share (Lyra, arXiv 2412.09501, and its released checkpoints).

Configs of modules default to the published shapes; a preset states what differs.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch

from model_core.adapter_choice import LONG_SPEECH, SPEECH
from model_core.language.chat_template import ChatTemplate
from model_core.language.decoder import Decoder
from model_core.language.extractor import ExtractionConfig
from model_core.language.lora import PROJECTIONS, LoraConfig
from model_core.presets.stages import ALIGN, INSTRUCT, SPEECH_GENERATOR, StageTable, TrainingStage
from model_core.presets.stages import LONG_SPEECH as LONG_SPEECH_STAGE
from model_core.speech.encoder import SpeechEncoder
from model_core.speech.projector import SpeechProjector
from model_core.speech.unit_generator import UnitGenerator
from model_core.speech.vocoder import UnitVocoder
from model_core.speech.whisper import WhisperEncoder
from model_core.vision.clip import ClipVisionEncoder
from model_core.vision.qwen import QwenVisionEncoder

# Whisper large-v3 and large-v3-turbo have the same encoder; their decoders have 32 and 4 layers.
WHISPER_LARGE = WhisperEncoder.Config(
    mel_bins=128, width=1280, layers=32, heads=20, feed_forward=5120, max_frames=1500, whole_window=True
)

# 5 frames of 20 ms make a speech token: 300 for a clip of 30 s, 72,000 for two hours.
SPEECH_GROUP, SPEECH_HIDDEN = 5, 2048

ADAPTERS = {SPEECH: LoraConfig(rank=64, alpha=16), LONG_SPEECH: LoraConfig(rank=128, alpha=256)}
ADAPTER_PROJECTIONS = PROJECTIONS

# Four blocks; nothing is dropped until a request, or the checkpoint's own configuration, names a keep rate under 1.
EXTRACTION = ExtractionConfig(blocks=4, keep_rate=1.0)

# Positions that the `long_speech` adapter was trained on (stage 3); Qwen2-VL's own configuration says 32,768.
LONG_CONTEXT = 131_072


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedArchitecture:
    """The shapes of everything that a folder in the published layout holds; defaults are those of the published models.

    Attributes:
        model: What the services call the language model.
        language: The decoder.
        template: Its chat template.
        adapters: Its LoRA adapters by name.
        adapter_projections: The linear layers that they adapt.
        extraction: What the extractor does unless a request or the checkpoint says otherwise.
        speech_encoder: Whisper's encoder, with a projector for each adapter.
        transcriber_parameters: Parameters of Whisper's decoder, which is loaded where it is beside the checkpoint.
        vision_encoder: The vision tower, with a projector where it has one.
        unit_generator: Hidden states to units.
        vocoder: Units to sound.
        language_dtype: What the language model's weights are cast to; None for the fastest format of the device.
    """

    model: str
    language: Decoder.Config
    template: ChatTemplate
    adapters: Mapping[str, LoraConfig] = field(default_factory=lambda: ADAPTERS)
    adapter_projections: tuple[str, ...] = ADAPTER_PROJECTIONS
    extraction: ExtractionConfig = EXTRACTION
    speech_encoder: SpeechEncoder.Config
    transcriber_parameters: int = 0
    vision_encoder: QwenVisionEncoder.Config | ClipVisionEncoder.Config
    unit_generator: UnitGenerator.Config
    vocoder: UnitVocoder.Config = field(default_factory=UnitVocoder.Config)
    language_dtype: torch.dtype | None = None


def qwen2_vl_language(
    *, vocabulary: int, width: int, layers: int, heads: int, key_value_heads: int, feed_forward: int, tied_output: bool
) -> Decoder.Config:
    """Qwen2-VL's decoder in one of its sizes, with the context of long speech."""
    return Decoder.Config(
        vocabulary=vocabulary,
        width=width,
        layers=layers,
        heads=heads,
        key_value_heads=key_value_heads,
        feed_forward=feed_forward,
        context=LONG_CONTEXT,
        rope_base=1_000_000.0,
        norm_epsilon=1e-6,
        qkv_bias=True,
        tied_output=tied_output,
        rope_sections=(16, 24, 24),
    )


def speech_encoder(model: str, model_width: int) -> SpeechEncoder.Config:
    """Whisper large, and for each adapter a projector to a language model of width `model_width`."""
    projector = SpeechProjector.Config(
        encoder_width=WHISPER_LARGE.width, model_width=model_width, group=SPEECH_GROUP, hidden_width=SPEECH_HIDDEN
    )
    return SpeechEncoder.Config(model=model, whisper=WHISPER_LARGE, projector=projector, adapters=tuple(ADAPTERS))


# Learning rates, regularizer and context are the paper's (section 4); batch sizes, which it does not state, are ours.
TRAINING: StageTable = {
    ALIGN: TrainingStage(learning_rate=1e-3, batch=256),
    INSTRUCT: TrainingStage(
        adapter=SPEECH, lora=ADAPTERS[SPEECH], learning_rate=2e-4, batch=128, regularizer=0.5, context=32_768
    ),
    LONG_SPEECH_STAGE: TrainingStage(
        adapter=LONG_SPEECH,
        lora=ADAPTERS[LONG_SPEECH],
        learning_rate=1e-4,
        batch=16,
        extraction=ExtractionConfig(blocks=4, keep_rate=0.7),
        context=LONG_CONTEXT,
    ),
    SPEECH_GENERATOR: TrainingStage(learning_rate=2e-4, batch=32),
}
