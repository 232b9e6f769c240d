"""Key-value cache of a decoder.

Every layer has its own length: behind an extraction, the layers of the next block hold fewer positions.

Shapes: B batch, K key-value heads, L positions of a call, P positions cached before it, D head width.
"""

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

_MIN_GROWTH = 64  # positions


@dataclass(slots=True)
class _LayerCache:
    """Buffers [B, K, capacity, D]; the first `length` positions are valid."""

    keys: Tensor
    values: Tensor
    length: int


class KeyValueCache:
    """Keys and values of one sequence, or of several that advance in lockstep.

    Args:
        layers: Number of decoder layers.
        reserve: Positions allocated beyond those of the first call, so that buffers need not grow at once.

    Attributes:
        length: Positions processed so far, including those that an extraction dropped.
    """

    def __init__(self, layers: int, reserve: int = _MIN_GROWTH) -> None:
        self.length = 0
        self._reserve = reserve
        self._layers: list[_LayerCache | None] = [None] * layers

    def append(self, layer: int, k_BKLD: Tensor, v_BKLD: Tensor) -> tuple[Tensor, Tensor]:
        """Appends a layer's keys and values. Returns views of all valid positions, [B, K, P + L, D] each."""
        cached = self._layers[layer]
        if cached is None:
            cached = _LayerCache(_grown(k_BKLD, self._reserve), _grown(v_BKLD, self._reserve), k_BKLD.shape[2])
            self._layers[layer] = cached
            return cached.keys[:, :, : cached.length], cached.values[:, :, : cached.length]
        start, cached.length = cached.length, cached.length + k_BKLD.shape[2]
        if cached.length > cached.keys.shape[2]:
            # In proportion, so that a long answer is not copied again and again.
            more = cached.length + max(_MIN_GROWTH, cached.length // 8) - start
            cached.keys = _grown(cached.keys[:, :, :start], more)
            cached.values = _grown(cached.values[:, :, :start], more)
        cached.keys[:, :, start : cached.length] = k_BKLD
        cached.values[:, :, start : cached.length] = v_BKLD
        return cached.keys[:, :, : cached.length], cached.values[:, :, : cached.length]

    def layer_length(self, layer: int) -> int:
        """Number of valid positions of a layer."""
        cached = self._layers[layer]
        return cached.length if cached else 0

    @property
    def nbytes(self) -> int:
        """Size of all buffers."""
        return sum(cached.keys.nbytes + cached.values.nbytes for cached in self._layers if cached)


def _grown(x_BKLD: Tensor, positions: int) -> Tensor:
    return F.pad(x_BKLD, (0, 0, 0, positions))
