"""The shapes and hyperparameters of preset tiny. Reads like a table."""

from tokenizers import Tokenizer

from model_core.adapter_choice import LONG_SPEECH as LONG_SPEECH_ADAPTER
from model_core.adapter_choice import SPEECH
from model_core.language.decoder import Decoder
from model_core.language.extractor import ExtractionConfig
from model_core.language.lora import PROJECTIONS, LoraConfig
from model_core.presets.building import byte_tokenizer
from model_core.presets.stages import ALIGN, INSTRUCT, LONG_SPEECH, SPEECH_GENERATOR, StageTable, TrainingStage
from model_core.speech.encoder import SpeechEncoder
from model_core.speech.projector import SpeechProjector
from model_core.speech.unit_generator import UnitGenerator
from model_core.speech.whisper import WhisperEncoder
from model_core.vision.efficientnet import EfficientNetLite, Stage
from model_core.vision.grid import GridVisionEncoder, VisionProjector

_WIDTH = 16

LANGUAGE_MODEL = "tiny-random"

LANGUAGE = Decoder.Config(
    vocabulary=320, width=_WIDTH, layers=2, heads=4, key_value_heads=2, feed_forward=32, context=2048
)

LORA = LoraConfig(rank=2, alpha=4)
LORA_PROJECTIONS = PROJECTIONS

SPEECH_ENCODER = SpeechEncoder.Config(
    model="tiny-random",
    whisper=WhisperEncoder.Config(mel_bins=80, width=8, layers=1, heads=2, feed_forward=16),
    projector=SpeechProjector.Config(encoder_width=8, model_width=_WIDTH, group=4, hidden_width=16),
)

VISION_ENCODER = GridVisionEncoder.Config(
    model="tiny-random",
    image_size=32,
    backbone=EfficientNetLite.Config(stages=(Stage(blocks=1, width=8, stride=2),), stem_width=8, feature_width=16),
    projector=VisionProjector.Config(feature_width=16, hidden_width=32, model_width=_WIDTH, grid=2),
)

UNIT_GENERATOR = UnitGenerator.Config(
    hidden_width=_WIDTH, layers=1, width=16, heads=2, feed_forward=32, upsample=8, units=20
)

TRAINING: StageTable = {
    ALIGN: TrainingStage(objective="embedding", learning_rate=1e-3, batch=2, mask_frames=2),
    INSTRUCT: TrainingStage(adapter=SPEECH, lora=LORA, learning_rate=1e-3, batch=2, regularizer=0.5),
    LONG_SPEECH: TrainingStage(
        adapter=LONG_SPEECH_ADAPTER,
        lora=LORA,
        learning_rate=1e-3,
        batch=2,
        extraction=ExtractionConfig(blocks=2, keep_rate=0.7),
    ),
    SPEECH_GENERATOR: TrainingStage(learning_rate=1e-3, batch=2),
}


def tokenizer() -> Tokenizer:
    """A tokenizer of single bytes with ChatML's special tokens."""
    return byte_tokenizer("<|endoftext|>", "<|im_start|>", "<|im_end|>")
