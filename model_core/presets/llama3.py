"""Preset llama3: the method on LLaMA 3 8B with CLIP, for training of one's own."""

from model_core.language.chat_template import LLAMA3
from model_core.language.decoder import Decoder
from model_core.presets.method import PublishedPreset, speech_encoder
from model_core.speech.unit_generator import UnitGenerator
from model_core.vision.clip import ClipVisionEncoder

_WIDTH = 4096

PRESET = PublishedPreset(
    model="Lyra-LLaMA-3-8B",
    language=Decoder.Config(
        vocabulary=128_256,
        width=_WIDTH,
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
    speech_encoder=speech_encoder("whisper-large-v3", _WIDTH),
    vision_encoder=ClipVisionEncoder.Config(model="clip-vit-large-patch14-336", token_width=_WIDTH),
    unit_generator=UnitGenerator.Config(hidden_width=_WIDTH),
)
