"""Preset base: the published Lyra_Base_9B, on Qwen2-VL 7B."""

from typing import TYPE_CHECKING

from model_core.presets.published_preset import published_preset

if TYPE_CHECKING:
    from model_core.presets.method import PublishedArchitecture


def architecture() -> "PublishedArchitecture":
    """The shapes of Lyra_Base_9B."""
    from model_core.language.chat_template import QWEN2_VL
    from model_core.presets.method import PublishedArchitecture, qwen2_vl_language, speech_encoder
    from model_core.speech.unit_generator import UnitGenerator
    from model_core.vision.qwen import QwenVisionEncoder

    width = 3584
    return PublishedArchitecture(
        model="Lyra-Base-9B",
        language=qwen2_vl_language(
            vocabulary=152_064,
            width=width,
            layers=28,
            heads=28,
            key_value_heads=4,
            feed_forward=18_944,
            tied_output=False,
        ),
        template=QWEN2_VL,
        speech_encoder=speech_encoder("whisper-large-v3", width),
        transcriber_parameters=907_000_000,
        vision_encoder=QwenVisionEncoder.Config(model="qwen2-vl-7b-vit", token_width=width),
        unit_generator=UnitGenerator.Config(hidden_width=width),
    )


PRESET = published_preset(
    name="base",
    description="the published Lyra_Base_9B, on Qwen2-VL 7B",
    architecture=architecture,
)
