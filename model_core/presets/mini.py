"""Preset mini: the published Lyra_Mini_3B, on Qwen2-VL 2B."""

from model_core.language.decoder import Decoder
from model_core.language.prompt import QWEN2_VL
from model_core.presets.method import (
    ADAPTER_PROJECTIONS,
    ADAPTERS,
    EXTRACTION,
    LONG_CONTEXT,
    SPEECH_GROUP,
    SPEECH_HIDDEN,
    VOCODER,
    WHISPER_LARGE,
    PublishedPreset,
)
from model_core.speech.encoder import SpeechEncoder
from model_core.speech.projector import SpeechProjector
from model_core.speech.unit_generator import UnitGenerator
from model_core.vision.qwen import QwenVisionEncoder

PRESET = PublishedPreset(
    model="Lyra-Mini-3B",
    language=Decoder.Config(
        vocabulary=151_936,
        width=1536,
        layers=28,
        heads=12,
        key_value_heads=2,
        feed_forward=8960,
        context=LONG_CONTEXT,
        rope_base=1_000_000.0,
        norm_epsilon=1e-6,
        qkv_bias=True,
        tied_output=True,
        rope_sections=(16, 24, 24),
    ),
    template=QWEN2_VL,
    adapters=ADAPTERS,
    adapter_projections=ADAPTER_PROJECTIONS,
    extraction=EXTRACTION,
    speech_encoder=SpeechEncoder.Config(
        model="whisper-large-v3-turbo",
        whisper=WHISPER_LARGE,
        projector=SpeechProjector.Config(
            encoder_width=1280, model_width=1536, group=SPEECH_GROUP, hidden_width=SPEECH_HIDDEN
        ),
        adapters=tuple(ADAPTERS),
    ),
    vision_encoder=QwenVisionEncoder.Config(
        model="qwen2-vl-2b-vit",
        token_width=1536,
        width=1280,
        layers=32,
        heads=16,
        feed_forward_ratio=4,
        patch=14,
        merge=2,
        frames_a_patch=2,
    ),
    unit_generator=UnitGenerator.Config(
        hidden_width=1536, layers=2, width=4096, heads=32, feed_forward=11_008, upsample=25, units=1000
    ),
    vocoder=VOCODER,
)
