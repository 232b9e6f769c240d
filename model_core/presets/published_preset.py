"""Presets whose parts come from a folder in the published layout, made of their architecture."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from model_core.presets.preset import BuildOptions, Preset, WeightSource

if TYPE_CHECKING:
    from model_core.presets.method import PublishedArchitecture
    from model_core.presets.published import PublishedWeights
    from model_core.presets.stages import StageTable


def published_training() -> "StageTable":
    """Hyperparameters of the published method."""
    from model_core.presets.method import TRAINING

    return TRAINING


def published_preset(
    *,
    name: str,
    description: str,
    architecture: "Callable[[], PublishedArchitecture]",
    weights: WeightSource = WeightSource.CHECKPOINT,
    training: "Callable[[], StageTable]" = published_training,
    licence: str = "apache-2.0",
) -> Preset:
    """A preset with all four parts.

    Args:
        name: As in `LYRA_PRESET` and `--preset`.
        description: What it is, in a line.
        architecture: Makes the shapes of its parts; imports torch, so it is called when a part is built.
        weights: CHECKPOINT, or RANDOM for one that runs without a checkpoint too.
        training: Makes the hyperparameters of each training stage.
        licence: Of the language model, as Hugging Face writes it.
    """

    def parts(options: BuildOptions) -> "PublishedWeights":
        from model_core.presets.building import chosen_device
        from model_core.presets.published import PublishedWeights

        return PublishedWeights(name, architecture(), options.checkpoint, chosen_device(options.device))

    return Preset(
        name=name,
        description=description,
        weights=weights,
        speech_encoder=lambda options: parts(options).speech_encoder(),
        vision_encoder=lambda options: parts(options).vision_encoder(),
        language_model=lambda options: parts(options).language_model(),
        voice=lambda options: parts(options).voice(),
        architecture=architecture,
        training=training,
        unit_generator=lambda: architecture().unit_generator,
        licence=licence,
    )
