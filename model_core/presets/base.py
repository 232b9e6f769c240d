"""Preset base: the published Lyra_Base_9B, on Qwen2-VL 7B."""

from model_core.language.chat_template import QWEN2_VL
from model_core.presets.method import PublishedPreset, qwen2_vl_language, speech_encoder
from model_core.speech.unit_generator import UnitGenerator
from model_core.vision.qwen import QwenVisionEncoder

_WIDTH = 3584

PRESET = PublishedPreset(
    model="Lyra-Base-9B",
    language=qwen2_vl_language(
        vocabulary=152_064, width=_WIDTH, layers=28, heads=28, key_value_heads=4, feed_forward=18_944, tied_output=False
    ),
    template=QWEN2_VL,
    speech_encoder=speech_encoder("whisper-large-v3", _WIDTH),
    vision_encoder=QwenVisionEncoder.Config(model="qwen2-vl-7b-vit", token_width=_WIDTH),
    unit_generator=UnitGenerator.Config(hidden_width=_WIDTH),
)
