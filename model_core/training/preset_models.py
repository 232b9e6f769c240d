"""The models of a preset for training: frozen, without trained parts."""

from pathlib import Path

from model_core.errors import InvalidInput
from model_core.language.lora import PROJECTIONS
from model_core.presets import PRESETS, build_language_model, build_speech_encoder, build_vision_encoder
from model_core.presets.stages import STAGES, TrainingStage
from model_core.training.assembly import Models


def stage_of(preset: str, name: str) -> TrainingStage:
    """A preset's hyperparameters for a stage. Raises InvalidInput for an unknown preset or stage."""
    if preset not in PRESETS:
        raise InvalidInput("preset", f"{preset!r} is not one of {', '.join(PRESETS)}")
    if name not in STAGES:
        raise InvalidInput("stage", f"{name!r} is not one of {', '.join(STAGES)}")
    if (training := PRESETS[preset].training) is None:
        raise InvalidInput("preset", f"preset {preset} has no hyperparameters for training")
    return training()[name]


def load_models(preset: str, home: Path | None, checkpoint: Path | None) -> Models:
    """Encoders and language model of a preset, with all parameters frozen. Raises WeightsMissing, InvalidInput."""
    language = build_language_model(preset, home, parts=None, checkpoint=checkpoint)
    speech = build_speech_encoder(preset, home, parts=None, checkpoint=checkpoint)
    vision = build_vision_encoder(preset, home, parts=None, checkpoint=checkpoint)
    language.decoder.requires_grad_(False)
    speech.requires_grad_(False)
    return Models(
        decoder=language.decoder,
        tokenizer=language.tokenizer,
        template=language.template,
        speech=speech,
        vision=vision,
        projections=PROJECTIONS,
    )
