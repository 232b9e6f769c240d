"""Keys and values of positions that were read before.

Every layer keeps its own length: behind an extraction, the layers of the next block hold fewer positions.

Shapes: B batch, K key-value heads, L positions of a call, P positions before it, D head width.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

_LEAST_GROWTH = 64


@dataclass(slots=True)
class _LayerCache:
    """Buffers [B, K, capacity, D], of which `length` positions are valid."""

    keys: Tensor
    values: Tensor
    length: int


class KeyValueCache:
    """Keys and values of one sequence, or of several that advance in step.

    Args:
        layers: Layers of the decoder.
        room: Positions that are to follow the first call before a buffer has to grow.

    Attributes:
        length: Positions read so far, those that an extraction dropped among them.
    """

    def __init__(self, layers: int, room: int = _LEAST_GROWTH) -> None:
        self.length = 0
        self._room = room
        self._layers: list[_LayerCache | None] = [None] * layers

    def append(self, layer: int, k_BKLD: Tensor, v_BKLD: Tensor) -> tuple[Tensor, Tensor]:
        """Writes a layer's keys and values behind the valid positions; returns views of all, [B, K, P + L, D]."""
        kept = self._layers[layer]
        if kept is None:
            kept = _LayerCache(_with_room(k_BKLD, self._room), _with_room(v_BKLD, self._room), k_BKLD.shape[2])
            self._layers[layer] = kept
            return kept.keys[:, :, : kept.length], kept.values[:, :, : kept.length]
        start, kept.length = kept.length, kept.length + k_BKLD.shape[2]
        if kept.length > kept.keys.shape[2]:
            # In proportion, so that a long answer is not copied again and again.
            room = kept.length + max(_LEAST_GROWTH, kept.length // 8) - start
            kept.keys = _with_room(kept.keys[:, :, :start], room)
            kept.values = _with_room(kept.values[:, :, :start], room)
        kept.keys[:, :, start : kept.length] = k_BKLD
        kept.values[:, :, start : kept.length] = v_BKLD
        return kept.keys[:, :, : kept.length], kept.values[:, :, : kept.length]

    def keys(self, layer: int) -> Tensor:
        """[B, K, P, D] of a layer's valid positions, of which there are some."""
        kept = self._layers[layer]
        assert kept is not None
        return kept.keys[:, :, : kept.length]

    def copy(self, dtype: torch.dtype, room: int = 0) -> "KeyValueCache":
        """Its valid positions in buffers of their own."""
        made = KeyValueCache(len(self._layers), room)
        made.length = self.length
        for layer, kept in enumerate(self._layers):
            if kept:
                keys, values = (x[:, :, : kept.length].to(dtype) for x in (kept.keys, kept.values))
                made.append(layer, keys, values)
        return made

    def layer_length(self, layer: int) -> int:
        """Valid positions of a layer."""
        kept = self._layers[layer]
        return kept.length if kept else 0

    @property
    def bytes(self) -> int:
        """Memory of all buffers."""
        return sum(kept.keys.nbytes + kept.values.nbytes for kept in self._layers if kept)


def _with_room(x_BKLD: Tensor, room: int) -> Tensor:
    return F.pad(x_BKLD, (0, 0, 0, room))
