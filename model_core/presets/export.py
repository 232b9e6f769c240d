"""A preset written as a folder in the published layout."""

from pathlib import Path

from model_core.checkpoints.exporting import SHARD_SIZE, export
from model_core.errors import CheckpointError
from model_core.presets import build_language_model, build_speech_encoder, build_vision_encoder, build_voice
from model_core.speech.projector import SpeechProjector
from model_core.speech.unit_generator import UnitGenerator
from model_core.speech.unit_voice import UnitVoice
from model_core.vision.clip import ClipVisionEncoder
from model_core.vision.qwen import QwenVisionEncoder


def export_preset(preset: str, folder: Path, checkpoint: Path | None = None, shard_size: str = SHARD_SIZE) -> None:
    """Builds every part of a preset and writes them to a new or empty folder.

    Args:
        preset: Its name.
        folder: The folder to write.
        checkpoint: Weights of the preset, for presets that require a checkpoint.
        shard_size: Maximum size of a file, as in `5GB`.

    Raises:
        UnknownPreset, WeightsMissing, InvalidInput: The preset cannot be built.
        CheckpointError: A part of it has no place in the published layout, or the folder is not empty.
    """
    vision, voice = build_vision_encoder(preset, checkpoint=checkpoint), build_voice(preset, checkpoint=checkpoint)
    if not isinstance(vision, QwenVisionEncoder | ClipVisionEncoder):
        raise CheckpointError(preset, f"has the vision encoder {vision.model}, which has no place in the layout")
    if not isinstance(voice, UnitVoice) or not isinstance(voice.generator, UnitGenerator):
        raise CheckpointError(preset, f"speaks with {voice.model}, which has no place in the published layout")
    language, speech = (
        build_language_model(preset, checkpoint=checkpoint),
        build_speech_encoder(preset, checkpoint=checkpoint),
    )
    projectors = {name: each for name, each in speech.projectors.items() if isinstance(each, SpeechProjector)}
    export(
        folder,
        decoder=language.decoder,
        tokenizer=language.tokenizer,
        speech=speech.whisper,
        speech_projectors=projectors,
        vision=vision,
        speech_generator=voice.generator,
        vocoder=voice.vocoder,
        names={"speech_tower": speech.model},
        shard_size=shard_size,
    )
