"""Preset tiny-llama3: preset llama3 in miniature, for tests of that family. Without a checkpoint it is random."""

from dataclasses import replace
from typing import TYPE_CHECKING

from model_core.presets.catalog import tiny_qwen2_vl
from model_core.presets.preset import WeightSource
from model_core.presets.published_preset import published_preset

if TYPE_CHECKING:
    from model_core.presets.method import PublishedArchitecture


def architecture() -> "PublishedArchitecture":
    """The shapes: LLaMA 3's decoder and CLIP, all else as in tiny-qwen2-vl."""
    from model_core.language.chat_template import LLAMA3
    from model_core.language.decoder import Decoder
    from model_core.vision.clip import ClipVisionEncoder

    return replace(
        tiny_qwen2_vl.architecture(),
        model="tiny-random-llama3",
        language=Decoder.Config(
            vocabulary=320,
            width=32,
            layers=4,
            heads=4,
            key_value_heads=2,
            feed_forward=48,
            context=8192,
            rope_base=500_000.0,
            norm_epsilon=1e-5,
            qkv_bias=False,
            tied_output=False,
            rope_sections=None,
        ),
        template=LLAMA3,
        vision_encoder=ClipVisionEncoder.Config(
            model="tiny-random-clip",
            token_width=32,
            image_size=28,
            patch=14,
            width=8,
            layers=2,
            heads=2,
            feed_forward=16,
        ),
    )


PRESET = published_preset(
    name="tiny-llama3",
    description="preset llama3 in miniature, for tests",
    weights=WeightSource.RANDOM,
    architecture=architecture,
    training=tiny_qwen2_vl.training,
)
