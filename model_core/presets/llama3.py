"""Preset llama3: the method on LLaMA 3 8B with CLIP, for training of one's own."""

from model_core.language.decoder import Decoder
from model_core.language.prompt import LLAMA3
from model_core.presets.method import (
    ADAPTER_PROJECTIONS,
    ADAPTERS,
    EXTRACTION,
    SPEECH_GROUP,
    SPEECH_HIDDEN,
    VOCODER,
    WHISPER_LARGE,
    PublishedPreset,
)
from model_core.speech.encoder import SpeechEncoder
from model_core.speech.projector import SpeechProjector
from model_core.speech.unit_generator import UnitGenerator
from model_core.vision.clip import ClipVisionEncoder

PRESET = PublishedPreset(
    model="Lyra-LLaMA-3-8B",
    language=Decoder.Config(
        vocabulary=128_256,
        width=4096,
        layers=32,
        heads=32,
        key_value_heads=8,
        feed_forward=14_336,
        context=8192,
        rope_base=500_000.0,
        norm_epsilon=1e-5,
        qkv_bias=False,
        tied_output=False,
        rope_sections=None,
    ),
    template=LLAMA3,
    adapters=ADAPTERS,
    adapter_projections=ADAPTER_PROJECTIONS,
    extraction=EXTRACTION,
    speech_encoder=SpeechEncoder.Config(
        model="whisper-large-v3",
        whisper=WHISPER_LARGE,
        projector=SpeechProjector.Config(
            encoder_width=1280, model_width=4096, group=SPEECH_GROUP, hidden_width=SPEECH_HIDDEN
        ),
        adapters=tuple(ADAPTERS),
    ),
    vision_encoder=ClipVisionEncoder.Config(
        model="clip-vit-large-patch14-336",
        token_width=4096,
        image_size=336,
        patch=14,
        width=1024,
        layers=24,
        heads=16,
        feed_forward=4096,
    ),
    unit_generator=UnitGenerator.Config(
        hidden_width=4096, layers=2, width=4096, heads=32, feed_forward=11_008, upsample=25, units=1000
    ),
    vocoder=VOCODER,
)
