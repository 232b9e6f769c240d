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
    """Hyperparameters of a training stage.

    Attributes:
        learning_rate: Peak; linear warm-up over `warmup`, then cosine decay to `lowest_rate` of it.
        projector_rate: Learning rate of the projectors, as a share of it.
        batch: Samples of an optimiser step, over all processes.
        epochs: Passes over the data; ignored where `steps` is set.
        steps: Optimiser steps.
        warmup: Share of the steps with a rising learning rate.
        lowest_rate: Share of the learning rate at the end.
        betas: Of AdamW.
        weight_decay: Of AdamW.
        clip: Maximum gradient norm.
        objective: Of stage 1: the loss of the frozen language model, or one against its embedding table alone (CTC on
            the tokens of a transcript, the words for a picture), which needs no forward pass of the model.
        adapter: Name of the LoRA adapter that is trained; None where only projectors are.
        lora: Its shape.
        regularizer: Weight of the latent cross-modality regularizer; 0 turns it off.
        extraction: The extractor in training, which drops context tokens where its keep rate is under 1.
        context: Maximum positions of a sample; longer ones are skipped and counted.
        mask_frames: Length of up to two spans of encoder frames that are masked in each recording (SpecAugment).
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
