"""What nano's units mean to its voice: mean latents of each, and readings with the place of every unit in them.

Shapes: R readings, T frames of all readings, N units of all readings, C latents, U units.
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
from model_core.speech.latents import Reading
from model_core.speech.phone_units import PHONES, unstressed


@dataclass(frozen=True, slots=True)
class Codebook:
    """Readings of a voice, one behind the other, and what they tell of its units.

    Attributes:
        latents_TC: float16.
        units_N, durations_N: int16; a unit lasts so many frames.
        lengths_R: int32; units of each reading.
        mean_C, deviation_C: Of all latents, float32.
        centroids_UC: Mean latents of each unit, less their mean, by their deviation; float32. A stressed sound that
            no reading has is taken for the unstressed one; one that none has at all is 0.
    """

    latents_TC: Tensor
    units_N: Tensor
    durations_N: Tensor
    lengths_R: Tensor
    mean_C: Tensor
    deviation_C: Tensor
    centroids_UC: Tensor

    def readings(self) -> list[tuple[Tensor, Tensor, Tensor]]:
        """Of each reading its units [N] and durations [N] int64, and its standardised latents [T, C] float32."""
        counts = self.lengths_R.tolist()
        units, durations = torch.split(self.units_N.long(), counts), torch.split(self.durations_N.long(), counts)
        latents = torch.split(self.latents_TC, [int(each.sum()) for each in durations])
        return [
            (unit, duration, (latent.float() - self.mean_C) / self.deviation_C)
            for unit, duration, latent in zip(units, durations, latents, strict=True)
        ]


def write_codebook(path: Path, readings: Iterable[Reading]) -> None:
    """Writes readings and the mean latents of every unit in them."""
    read = [(reading, reading.latents.astype(np.float16)) for reading in readings]
    latents_TC = torch.from_numpy(np.concatenate([latents for _, latents in read]))
    units_N = torch.tensor([unit for reading, _ in read for unit in reading.units])
    durations_N = torch.tensor([length for reading, _ in read for length in reading.durations])
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
        "lengths_R": torch.tensor([len(reading.units) for reading, _ in read], dtype=torch.int32),
        "mean_C": mean_C,
        "deviation_C": deviation_C,
        "centroids_UC": centroids_UC,
    }
    save_file(tensors, path)


def read_codebook(path: Path) -> Codebook:
    """Raises CheckpointError where the file is missing or is no codebook."""
    try:
        return Codebook(**load_file(path))
    except (OSError, SafetensorError, TypeError) as error:
        raise CheckpointError(path.name, f"is no codebook: {error}; `lyra data build speech-generation`") from None
