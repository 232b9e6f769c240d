"""Preset llama3: the method on LLaMA 3 8B with CLIP, for training of one's own."""

from typing import TYPE_CHECKING

from model_core.presets.published_preset import published_preset

if TYPE_CHECKING:
    from model_core.presets.method import PublishedArchitecture


def architecture() -> "PublishedArchitecture":
    """The shapes of a Lyra on LLaMA 3 8B."""
    from model_core.language.chat_template import LLAMA3
    from model_core.language.decoder import Decoder
    from model_core.presets.method import PublishedArchitecture, speech_encoder
    from model_core.speech.unit_generator import UnitGenerator
    from model_core.vision.clip import ClipVisionEncoder

    width = 4096
    return PublishedArchitecture(
        model="Lyra-LLaMA-3-8B",
        language=Decoder.Config(
            vocabulary=128_256,
            width=width,
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
        speech_encoder=speech_encoder("whisper-large-v3", width),
        transcriber_parameters=907_000_000,
        vision_encoder=ClipVisionEncoder.Config(model="clip-vit-large-patch14-336", token_width=width),
        unit_generator=UnitGenerator.Config(hidden_width=width),
    )


PRESET = published_preset(
    name="llama3",
    description="the method on LLaMA 3 8B with CLIP, for training of one's own",
    architecture=architecture,
    licence="llama3",
)
