"""Preset pro: Lyra_Pro_74B, on Qwen2-VL 72B."""

from model_core.language.chat_template import QWEN2_VL
from model_core.presets.method import PublishedPreset, qwen2_vl_language, speech_encoder
from model_core.speech.unit_generator import UnitGenerator
from model_core.vision.qwen import QwenVisionEncoder

_WIDTH = 8192

PRESET = PublishedPreset(
    model="Lyra-Pro-74B",
    language=qwen2_vl_language(
        vocabulary=152_064, width=_WIDTH, layers=80, heads=64, key_value_heads=8, feed_forward=29_568, tied_output=False
    ),
    template=QWEN2_VL,
    speech_encoder=speech_encoder("whisper-large-v3", _WIDTH),
    vision_encoder=QwenVisionEncoder.Config(model="qwen2-vl-72b-vit", token_width=_WIDTH),
    unit_generator=UnitGenerator.Config(hidden_width=_WIDTH),
)
