"""Nano's generated voice: a trained unit generator, the trained half of a vocoder, and the Piper voice's HiFi-GAN."""

from pathlib import Path

import torch
from safetensors import safe_open
from tokenizers import Tokenizer
from torch import Tensor

from model_core.checkpoints.piper import read_hifigan
from model_core.checkpoints.store import part_folder
from model_core.errors import CheckpointError
from model_core.kernels import fast_dtype
from model_core.presets import nano
from model_core.presets.building import trained
from model_core.speech.character_unit_generator import CharacterUnitGenerator
from model_core.speech.unit_voice import UnitVoice
from model_core.speech.vocoder import UnitVocoder
from model_core.speech.voice import voice_model

GENERATOR_FILE, VOCODER_FILE = "generator.safetensors", "vocoder.safetensors"
# The vocoder's modules that are trained here; the others are the HiFi-GAN's.
TRAINED_HALF = ("dict.", "dur_predictor.", "renderer.")

_TABLE = "model.embed_tokens.weight"


def untrained_generator(home: Path) -> CharacterUnitGenerator:
    """A random generator with the spelling of the language model's tokens. Raises WeightsMissing."""
    tokenizer = part_folder(home, "nano", "language") / "tokenizer.json"
    return nano.UNIT_GENERATOR.build().set_spelling(Tokenizer.from_file(str(tokenizer)))


def untrained_vocoder(home: Path) -> UnitVocoder:
    """A vocoder with the Piper voice's HiFi-GAN and random weights otherwise. Raises WeightsMissing."""
    vocoder = nano.VOCODER.build()
    _load(vocoder, read_hifigan(voice_model(part_folder(home, "nano", "voice"))))
    return vocoder


def generated_voice(home: Path, parts: Path, device: torch.device | str = "cpu") -> UnitVoice:
    """The voice. Raises WeightsMissing, CheckpointError."""
    generator, vocoder = nano.UNIT_GENERATOR.build(), untrained_vocoder(home)
    _load(generator, trained(parts / GENERATOR_FILE))
    _load(vocoder, trained(parts / VOCODER_FILE))
    with safe_open(part_folder(home, "nano", "language") / "model.safetensors", "pt") as tensors:
        table_VE: Tensor = tensors.get_tensor(_TABLE)
    generator = generator.set_output_table(table_VE.to(fast_dtype(device))).to(device)
    return UnitVoice(generator, vocoder.to(device), nano.GENERATED_VOICE)


def _load(module: CharacterUnitGenerator | UnitVocoder, tensors: dict[str, Tensor]) -> None:
    """Loads all weights of those submodules that `tensors` has any of."""
    expected = module.state_dict()
    wanted = {name for name in expected if name.startswith(tuple({each.split(".")[0] for each in tensors}))}
    for name in sorted(wanted | tensors.keys()):
        if name not in tensors or name not in expected or tensors[name].shape != expected[name].shape:
            raise CheckpointError(name, "is missing or does not fit nano's voice: train the speech generator again")
    cast = {name: tensor.to(expected[name].dtype) for name, tensor in tensors.items()}
    module.load_state_dict(cast, strict=False)
