"""Preset mini: the published Lyra_Mini_3B, on Qwen2-VL 2B."""

from model_core.language.chat_template import QWEN2_VL
from model_core.presets.method import PublishedPreset, qwen2_vl_language, speech_encoder
from model_core.speech.unit_generator import UnitGenerator
from model_core.vision.qwen import QwenVisionEncoder

_WIDTH = 1536

PRESET = PublishedPreset(
    model="Lyra-Mini-3B",
    language=qwen2_vl_language(
        vocabulary=151_936, width=_WIDTH, layers=28, heads=12, key_value_heads=2, feed_forward=8960, tied_output=True
    ),
    template=QWEN2_VL,
    speech_encoder=speech_encoder("whisper-large-v3-turbo", _WIDTH),
    vision_encoder=QwenVisionEncoder.Config(model="qwen2-vl-2b-vit", token_width=_WIDTH),
    unit_generator=UnitGenerator.Config(hidden_width=_WIDTH),
)
