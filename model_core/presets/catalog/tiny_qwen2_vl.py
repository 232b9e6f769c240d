"""Preset tiny-qwen2-vl: every part of a published model in miniature, for tests. Without a checkpoint it is random."""

from typing import TYPE_CHECKING

from model_core.presets.preset import WeightSource
from model_core.presets.published_preset import published_preset

if TYPE_CHECKING:
    from model_core.language.lora import LoraConfig
    from model_core.presets.method import PublishedArchitecture
    from model_core.presets.stages import StageTable


def _adapters() -> "dict[str, LoraConfig]":
    from model_core.adapter_choice import LONG_SPEECH, SPEECH
    from model_core.language.lora import LoraConfig

    return {SPEECH: LoraConfig(rank=2, alpha=4), LONG_SPEECH: LoraConfig(rank=4, alpha=8)}


def architecture() -> "PublishedArchitecture":
    """The shapes of Lyra_Mini_3B's parts, with everything small."""
    import torch

    from model_core.language.chat_template import QWEN2_VL
    from model_core.language.decoder import Decoder
    from model_core.presets.method import PublishedArchitecture
    from model_core.speech.encoder import SpeechEncoder
    from model_core.speech.projector import SpeechProjector
    from model_core.speech.unit_generator import UnitGenerator
    from model_core.speech.vocoder import DurationPredictor, UnitVocoder
    from model_core.speech.whisper import WhisperEncoder
    from model_core.vision.qwen import QwenVisionEncoder

    adapters = _adapters()
    return PublishedArchitecture(
        model="tiny-random-qwen2-vl",
        language=Decoder.Config(
            vocabulary=320,
            width=32,
            layers=4,
            heads=2,
            key_value_heads=1,
            feed_forward=48,
            context=8192,
            rope_base=1_000_000.0,
            norm_epsilon=1e-6,
            qkv_bias=True,
            tied_output=False,
            rope_sections=(2, 3, 3),
        ),
        template=QWEN2_VL,
        adapters=adapters,
        speech_encoder=SpeechEncoder.Config(
            model="tiny-random-whisper",
            whisper=WhisperEncoder.Config(mel_bins=128, width=8, layers=1, heads=2, feed_forward=16, whole_window=True),
            projector=SpeechProjector.Config(encoder_width=8, model_width=32, group=5, hidden_width=16),
            adapters=tuple(adapters),
        ),
        vision_encoder=QwenVisionEncoder.Config(
            model="tiny-random-qwen2-vl-vit",
            token_width=32,
            width=32,
            layers=1,
            heads=2,
            feed_forward_ratio=2,
            patch=14,
            merge=2,
            frames_per_patch=2,
            max_pixels=28 * 28 * 64,
            max_clip_pixels=28 * 28 * 256,
        ),
        unit_generator=UnitGenerator.Config(
            hidden_width=32, layers=2, width=32, heads=2, feed_forward=48, upsample=25, units=20
        ),
        vocoder=UnitVocoder.Config(
            units=20,
            embedding_width=8,
            channels=32,
            block_kernels=(3,),
            block_dilations=((1, 3),),
            duration=DurationPredictor.Config(width=8, hidden_width=8),
        ),
        language_dtype=torch.float32,
    )


def training() -> "StageTable":
    """Hyperparameters of each stage."""
    from model_core.adapter_choice import LONG_SPEECH, SPEECH
    from model_core.language.extractor import ExtractionConfig
    from model_core.presets.stages import ALIGN, INSTRUCT, SPEECH_GENERATOR, TrainingStage
    from model_core.presets.stages import LONG_SPEECH as LONG_SPEECH_STAGE

    adapters = _adapters()
    return {
        ALIGN: TrainingStage(learning_rate=1e-3, batch=2),
        INSTRUCT: TrainingStage(
            adapter=SPEECH, lora=adapters[SPEECH], learning_rate=1e-3, batch=2, regularizer=0.5, context=1024
        ),
        LONG_SPEECH_STAGE: TrainingStage(
            adapter=LONG_SPEECH,
            lora=adapters[LONG_SPEECH],
            learning_rate=1e-3,
            batch=2,
            extraction=ExtractionConfig(blocks=4, keep_rate=0.7),
        ),
        SPEECH_GENERATOR: TrainingStage(learning_rate=1e-3, batch=2),
    }


PRESET = published_preset(
    name="tiny-qwen2-vl",
    description="every part of a published model in miniature, for tests",
    weights=WeightSource.RANDOM,
    architecture=architecture,
    training=training,
)
