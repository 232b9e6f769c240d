"""What unit generators share: connectionist temporal classification (Graves et al. 2006), and checks of their input.

Shapes: L hidden states, E their width, T frames, N units, U units and the blank.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from model_core.errors import InvalidInput

IGNORED = -100


class FrameState(Protocol):
    """The state of a stream of frames: the last one, which the next may repeat."""

    last_frame: int


def collapse(states: Sequence[FrameState], frames: Sequence[Tensor], blank: int) -> list[Tensor]:
    """Frames [T] of each stream's last step -> units [N]: repeats merged, across steps too, and blanks dropped."""
    units = []
    for state, frames_T in zip(states, frames, strict=True):
        if not len(frames_T):
            units.append(frames_T)
            continue
        before_T = F.pad(frames_T[:-1], (1, 0), value=state.last_frame)
        units.append(frames_T[(frames_T != before_T) & (frames_T != blank)])
        state.last_frame = int(frames_T[-1])
    return units


def frames_needed(units: Sequence[int]) -> int:
    """Minimum number of frames for these units: equal neighbours need a blank in between."""
    return len(units) + sum(unit == before for before, unit in pairwise(units))


def ctc_loss(logits: Sequence[Tensor], targets: Sequence[Tensor], blank: int) -> Tensor:
    """Loss per unit (a scalar) over sequences with logits [T, U] and target units [N]."""
    padded_BTU = torch.nn.utils.rnn.pad_sequence(list(logits), batch_first=True)
    flat = torch.cat(list(targets))
    total = F.ctc_loss(
        padded_BTU.float().log_softmax(-1).transpose(0, 1),
        flat,
        torch.tensor([len(each) for each in logits]),
        torch.tensor([len(each) for each in targets]),
        blank=blank,
        reduction="sum",
        zero_infinity=True,
    )
    return total / len(flat)


def check_units(flat: Tensor, units: int) -> None:
    """Raises InvalidInput where a unit is unknown."""
    if ((flat < 0) | (flat >= units)).any():
        raise InvalidInput("units", f"one is not within 0 and {units - 1}")


def check_hidden(hidden: Sequence[Tensor], width: int) -> None:
    """Raises InvalidInput where hidden states are not floats [L, E] or not finite."""
    for each in hidden:
        if each.dim() != 2 or each.shape[1] != width or not each.is_floating_point():
            found = f"{each.dtype} of shape {list(each.shape)}"
            raise InvalidInput("hidden_states", f"{found} are not floats [tokens, {width}]")
        if not each.isfinite().all():
            raise InvalidInput("hidden_states", "some values are not finite")
