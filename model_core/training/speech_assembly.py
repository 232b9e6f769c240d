"""Puts stage 4 together: what learns, its batches, and what is written in the end."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import torch
from safetensors.torch import save_file

from model_core.data.build.speech_generation import CODEBOOK
from model_core.data.files import written_aside
from model_core.data.rows import LightSample
from model_core.errors import InvalidInput
from model_core.presets import SPEECH_GENERATOR_FOLDER
from model_core.presets.nano_voice import untrained_generator, untrained_vocoder
from model_core.speech.codebook import read_codebook
from model_core.speech.unit_generator import UnitGenerator
from model_core.training.assembly import Assembly, Models
from model_core.training.dataset import Source
from model_core.training.speech_generator import SpelledCollate, SpelledSpeech, UnitDataset, UnitSpeech, collate_units

UNIT_GENERATOR_FILE = "speech_generator.safetensors"


def unit_dataset(models: Models, sources: Sequence[Source]) -> UnitDataset:
    """The samples of speech-generation data. Raises InvalidInput."""
    return UnitDataset(sources, models.maker)


def spelled_assembly(models: Models, sources: Sequence[Source], home: Path, seed: int = 0) -> Assembly:
    """Nano's stage 4.

    Args:
        models: Of the preset; the language model takes no part.
        sources: Data sets; the codebook of the first is what the vocoder learns from.
        home: Root of the cache, with the voice whose HiFi-GAN speaks.
        seed: Decides on readings and crops.

    Raises:
        CheckpointError: there is no codebook beside the data; WeightsMissing.
    """
    codebook = read_codebook(sources[0].folder / CODEBOOK)
    module = SpelledSpeech(untrained_generator(home), untrained_vocoder(home), codebook)
    collate = SpelledCollate(codebook, _stop_tokens(models), seed)
    return Assembly(module, collate, has_units, lambda folder: module.write(folder / SPEECH_GENERATOR_FOLDER))


def unit_assembly(models: Models, generator: UnitGenerator) -> Assembly:
    """The method's stage 4: a generator on the frozen language model's hidden states."""
    if generator.hidden_width != models.decoder.config.width:
        widths = f"{generator.hidden_width} and {models.decoder.config.width}"
        raise InvalidInput("preset", f"hidden states of its generator and its language model are {widths} wide")
    module = UnitSpeech(models.decoder, generator, _stop_tokens(models))
    return Assembly(module, collate_units, has_units, partial(_write_generator, generator))


def has_units(sample: LightSample, length: int) -> str | None:
    """Why a sample cannot be learned from; None where it can."""
    return None if sample.unit_counts else "answer-without-units"


def _stop_tokens(models: Models) -> list[int]:
    to_id: Callable[[str], int | None] = models.tokenizer.token_to_id
    return [token for name in models.template.stop_tokens if (token := to_id(name)) is not None]


def _write_generator(generator: UnitGenerator, folder: Path) -> None:
    tensors = {name: x.detach().cpu().to(torch.float16).contiguous() for name, x in generator.state_dict().items()}
    with written_aside(folder / UNIT_GENERATOR_FILE) as partial_file:
        save_file(tensors, partial_file)
