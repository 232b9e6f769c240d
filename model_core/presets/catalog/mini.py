"""Preset mini: the published Lyra_Mini_3B, on Qwen2-VL 2B."""

from typing import TYPE_CHECKING

from model_core.presets.published_preset import published_preset

if TYPE_CHECKING:
    from model_core.presets.method import PublishedArchitecture


def architecture() -> "PublishedArchitecture":
    """The shapes of Lyra_Mini_3B."""
    from model_core.language.chat_template import QWEN2_VL
    from model_core.presets.method import PublishedArchitecture, qwen2_vl_language, speech_encoder
    from model_core.speech.unit_generator import UnitGenerator
    from model_core.vision.qwen import QwenVisionEncoder

    width = 1536
    return PublishedArchitecture(
        model="Lyra-Mini-3B",
        language=qwen2_vl_language(
            vocabulary=151_936,
            width=width,
            layers=28,
            heads=12,
            key_value_heads=2,
            feed_forward=8960,
            tied_output=True,
        ),
        template=QWEN2_VL,
        speech_encoder=speech_encoder("whisper-large-v3-turbo", width),
        transcriber_parameters=172_000_000,
        vision_encoder=QwenVisionEncoder.Config(model="qwen2-vl-2b-vit", token_width=width),
        unit_generator=UnitGenerator.Config(hidden_width=width),
    )


PRESET = published_preset(
    name="mini",
    description="the published Lyra_Mini_3B, on Qwen2-VL 2B",
    architecture=architecture,
)
