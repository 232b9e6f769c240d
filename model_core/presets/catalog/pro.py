"""Preset pro: Lyra_Pro_74B, on Qwen2-VL 72B."""

from typing import TYPE_CHECKING

from model_core.presets.published_preset import published_preset

if TYPE_CHECKING:
    from model_core.presets.method import PublishedArchitecture


def architecture() -> "PublishedArchitecture":
    """The shapes of Lyra_Pro_74B."""
    from model_core.language.chat_template import QWEN2_VL
    from model_core.presets.method import PublishedArchitecture, qwen2_vl_language, speech_encoder
    from model_core.speech.unit_generator import UnitGenerator
    from model_core.vision.qwen import QwenVisionEncoder

    width = 8192
    return PublishedArchitecture(
        model="Lyra-Pro-74B",
        language=qwen2_vl_language(
            vocabulary=152_064,
            width=width,
            layers=80,
            heads=64,
            key_value_heads=8,
            feed_forward=29_568,
            tied_output=False,
        ),
        template=QWEN2_VL,
        speech_encoder=speech_encoder("whisper-large-v3", width),
        transcriber_parameters=907_000_000,
        vision_encoder=QwenVisionEncoder.Config(model="qwen2-vl-72b-vit", token_width=width),
        unit_generator=UnitGenerator.Config(hidden_width=width),
    )


PRESET = published_preset(
    name="pro",
    description="Lyra_Pro_74B, on Qwen2-VL 72B",
    architecture=architecture,
    licence="other",
)
