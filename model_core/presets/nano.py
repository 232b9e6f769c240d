"""The shapes and hyperparameters of preset nano. Reads like a table."""

from model_core.adapter_choice import LONG_SPEECH as LONG_SPEECH_ADAPTER
from model_core.adapter_choice import SPEECH
from model_core.language.decoder import Decoder
from model_core.language.extractor import ExtractionConfig
from model_core.language.lora import PROJECTIONS, LoraConfig
from model_core.presets.stages import ALIGN, INSTRUCT, LONG_SPEECH, SPEECH_GENERATOR, StageTable, TrainingStage
from model_core.speech.character_unit_generator import CharacterUnitGenerator
from model_core.speech.encoder import SpeechEncoder
from model_core.speech.phone_units import PHONES
from model_core.speech.projector import SpeechProjector
from model_core.speech.streaming import Layer
from model_core.speech.vocoder import DurationPredictor, FrameRenderer, UnitVocoder
from model_core.speech.whisper import WhisperEncoder
from model_core.vision.efficientnet import EfficientNetLite
from model_core.vision.grid import GridVisionEncoder, VisionProjector

LANGUAGE_MODEL = "SmolLM2-135M-Instruct"

LANGUAGE = Decoder.Config(
    vocabulary=49_152,
    width=576,
    layers=30,
    heads=9,
    key_value_heads=3,
    feed_forward=1536,
    context=8192,
    rope_base=100_000.0,
)

LORA = LoraConfig(rank=16, alpha=32)
LORA_PROJECTIONS = PROJECTIONS

# With a keep rate, context tokens are dropped after three of four blocks; without one none are.
EXTRACTION = ExtractionConfig(blocks=4)
# Nineteen minutes of speech. `long_speech` was trained on recordings of up to three: its answers say more in shorter
# windows, and longer ones take more memory.
WINDOW_TOKENS = 4096

SPEECH_ENCODER = SpeechEncoder.Config(
    model="whisper-tiny.en",
    whisper=WhisperEncoder.Config(mel_bins=80, width=384, layers=4, heads=6, feed_forward=1536),
    # 4 frames of 20 ms to a group; a third of the groups, about five a second, say something new and make a token.
    projector=SpeechProjector.Config(
        encoder_width=384,
        model_width=576,
        group=4,
        hidden_width=2048,
        context_layers=6,
        pieces=4235,
        merges=4000,  # of 48,900: of the tokens in held-out sentences 3 % are rare in training then, not 12 %
    ),
)

VISION_ENCODER = GridVisionEncoder.Config(
    model="efficientnet-lite0",
    image_size=224,
    backbone=EfficientNetLite.Config(),
    projector=VisionProjector.Config(feature_width=1280, hidden_width=1024, model_width=576, grid=4),
)

# 16 frames to a token for 3 units or so; letters of longer tokens than that are left out.
UNIT_GENERATOR = CharacterUnitGenerator.Config(hidden_width=576, vocabulary=49_152, units=len(PHONES))

# Name of the voice that speaks from hidden states.
GENERATED_VOICE = "nano"
# Which speaks where none is named: the generated voice as soon as it is understood as well as the Piper voice, `joe`.
DEFAULT_VOICE = "joe"

# The HiFi-GAN is the Piper voice's own, read from its file; what stands before it is trained here.
VOCODER = UnitVocoder.Config(
    units=len(PHONES),
    embedding_width=192,
    duration=DurationPredictor.Config(width=192, hidden_width=128, ahead=1),
    renderer=FrameRenderer.Config(
        width=192,
        latents=192,
        layers=(
            Layer(kernel=5, dilation=1, ahead=2),
            Layer(kernel=5, dilation=1, ahead=1),
            Layer(kernel=5, dilation=2, ahead=1),
            Layer(kernel=5, dilation=2, ahead=0),
            Layer(kernel=5, dilation=4, ahead=0),
            Layer(kernel=5, dilation=1, ahead=0),
        ),
    ),
    channels=256,
    upsample_rates=(8, 8, 4),  # 256 samples a frame
    upsample_kernels=(16, 16, 8),
    block_kernels=(3, 5, 7),
    block_dilations=((1, 2), (2, 6), (3, 12)),
    paired=False,
    sample_rate=22_050,
)

TRAINING: StageTable = {
    ALIGN: TrainingStage(
        objective="embedding", learning_rate=1e-3, batch=32, betas=(0.9, 0.98), weight_decay=0.01, mask_frames=8
    ),
    INSTRUCT: TrainingStage(
        adapter=SPEECH,
        lora=LORA,
        learning_rate=6e-4,
        projector_rate=0.1,
        lowest_rate=0.05,
        batch=8,
        betas=(0.9, 0.98),
        weight_decay=0.01,
        regularizer=0.5,
        mask_frames=8,
    ),
    LONG_SPEECH: TrainingStage(
        adapter=LONG_SPEECH_ADAPTER,
        lora=LORA,
        learning_rate=3e-4,
        lowest_rate=0.05,
        batch=2,
        betas=(0.9, 0.98),
        weight_decay=0.01,
        extraction=EXTRACTION,
    ),
    SPEECH_GENERATOR: TrainingStage(
        learning_rate=2e-3, lowest_rate=0.05, batch=32, betas=(0.9, 0.98), weight_decay=0.01
    ),
}
