"""Hyperparameters of the four training stages (Lyra, section 4); each preset has a table of its own."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from model_core.language.extractor import ExtractionConfig
from model_core.language.lora import LoraConfig

ALIGN, INSTRUCT, LONG_SPEECH, SPEECH_GENERATOR = "align", "instruct", "long-speech", "speech-generator"
STAGES = (ALIGN, INSTRUCT, LONG_SPEECH, SPEECH_GENERATOR)


@dataclass(kw_only=True, frozen=True, slots=True)
class TrainingStage:
    """How a stage trains.

    Attributes:
        learning_rate: The highest; it rises over `warmup` and falls along a cosine to `lowest_rate` of itself.
        projector_rate: The projectors' own learning rate, as a share of it.
        batch: Samples an optimiser step, of all processes together.
        epochs: Passes over the data, where `steps` is None.
        steps: Optimiser steps.
        warmup: Share of the steps.
        lowest_rate: Share of the learning rate at the end.
        betas: Of AdamW.
        weight_decay: Of AdamW.
        clip: Largest gradient norm.
        objective: Stage 1 learns through the frozen language model, or against its embedding table alone: the tokens
            of the transcript by CTC, the words for a picture. The latter needs no pass through the model.
        adapter: Name of the LoRA adapter that learns; None where projectors learn alone.
        lora: Its shape.
        regularizer: Weight of the latent cross-modality regularizer; 0 is none.
        extraction: Context tokens are dropped in training too, where the keep rate is under 1.
        context: Most positions of a sample; longer ones are left out and counted.
        mask_frames: In training up to two spans of so many encoder frames a recording are hidden (SpecAugment).
    """

    learning_rate: float
    batch: int
    projector_rate: float = 1.0
    epochs: float = 1.0
    steps: int | None = None
    warmup: float = 0.03
    lowest_rate: float = 0.0
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 0.0
    clip: float = 1.0
    objective: Literal["language", "embedding"] = "language"
    adapter: str | None = None
    lora: LoraConfig | None = None
    regularizer: float = 0.0
    extraction: ExtractionConfig | None = None
    context: int = 8192
    mask_frames: int = 0


StageTable = Mapping[str, TrainingStage]
