"""The codebook of nano's phone units: mean latents of each in its voice, and utterances aligned with their units.

Shapes: R utterances, T frames and N units of all utterances, C latents, U units.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from model_core.errors import CheckpointError
from model_core.speech.latents import Utterance
from model_core.speech.phone_units import PHONES, unstressed


@dataclass(frozen=True, slots=True)
class Codebook:
    """Concatenated utterances of a voice, and statistics of its units.

    Attributes:
        latents_TC: float16.
        units_N, durations_N: int16; durations in frames.
        lengths_R: int32; units in each utterance.
        mean_C, deviation_C: Of all latents, float32.
        centroids_UC: Mean standardised latents of each unit, float32. A stressed phone that occurs nowhere gets those
            of the unstressed one; without that one either, 0.
    """

    latents_TC: Tensor
    units_N: Tensor
    durations_N: Tensor
    lengths_R: Tensor
    mean_C: Tensor
    deviation_C: Tensor
    centroids_UC: Tensor

    def utterances(self) -> list[tuple[Tensor, Tensor, Tensor]]:
        """Units [N] and durations [N] int64, and standardised latents [T, C] float32, of each utterance."""
        counts = self.lengths_R.tolist()
        units, durations = torch.split(self.units_N.long(), counts), torch.split(self.durations_N.long(), counts)
        latents = torch.split(self.latents_TC, [int(each.sum()) for each in durations])
        return [
            (unit, duration, (latent.float() - self.mean_C) / self.deviation_C)
            for unit, duration, latent in zip(units, durations, latents, strict=True)
        ]


def write_codebook(path: Path, utterances: Iterable[Utterance]) -> None:
    """Writes utterances, and the mean latents of every unit in them."""
    converted = [(utterance, utterance.latents.astype(np.float16)) for utterance in utterances]
    latents_TC = torch.from_numpy(np.concatenate([latents for _, latents in converted]))
    units_N = torch.tensor([unit for utterance, _ in converted for unit in utterance.units])
    durations_N = torch.tensor([length for utterance, _ in converted for length in utterance.durations])
    mean_C, deviation_C = latents_TC.float().mean(0), latents_TC.float().std(0)
    standard_TC = (latents_TC.float() - mean_C) / deviation_C
    of_frame_T = units_N.repeat_interleave(durations_N)
    counts_U = torch.bincount(of_frame_T, minlength=len(PHONES))
    sums_UC = torch.zeros(len(PHONES), standard_TC.shape[1]).index_add_(0, of_frame_T, standard_TC)
    centroids_UC = sums_UC / counts_U.clamp(min=1)[:, None]
    for unit in (counts_U == 0).nonzero().flatten().tolist():
        centroids_UC[unit] = centroids_UC[unstressed(unit)]
    tensors = {
        "latents_TC": latents_TC,
        "units_N": units_N.to(torch.int16),
        "durations_N": durations_N.to(torch.int16),
        "lengths_R": torch.tensor([len(utterance.units) for utterance, _ in converted], dtype=torch.int32),
        "mean_C": mean_C,
        "deviation_C": deviation_C,
        "centroids_UC": centroids_UC,
    }
    save_file(tensors, path)


def read_codebook(path: Path) -> Codebook:
    """Raises CheckpointError where the file is missing or not a codebook."""
    try:
        return Codebook(**load_file(path))
    except (OSError, SafetensorError, TypeError) as error:
        raise CheckpointError(
            path.name, f"is not a codebook: {error}; run `lyra data build speech-generation`"
        ) from None
