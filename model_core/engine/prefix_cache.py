"""Long beginnings of prompts that are kept, for the next question about the same recording.

Shapes: P positions of a beginning, E width.
"""

import hashlib
from collections import OrderedDict
from dataclasses import dataclass

import torch
from torch import Tensor

from model_core.language.kv_cache import KeyValueCache


@dataclass(frozen=True, slots=True)
class Prefix:
    """A beginning as the first layers have read it: their keys and values, and its hidden states [1, P, E] behind
    them."""

    cache: KeyValueCache
    hidden_1PE: Tensor

    def to(self, dtype: torch.dtype, room: int = 0) -> "Prefix":
        """The same in buffers of their own; `room` as in KeyValueCache."""
        return Prefix(self.cache.copy(dtype, room), self.hidden_1PE.to(dtype))

    @property
    def memory(self) -> int:
        """Bytes that it takes."""
        return self.cache.bytes + self.hidden_1PE.nbytes


class PrefixCache:
    """Beginnings that were read lately, as many as fit.

    Args:
        most_bytes: For all of them; 0 keeps none.
    """

    def __init__(self, most_bytes: int) -> None:
        self.most_bytes = most_bytes
        self._kept: OrderedDict[bytes, Prefix] = OrderedDict()

    @property
    def memory(self) -> int:
        """Bytes that they take now."""
        return sum(prefix.memory for prefix in self._kept.values())

    def find(self, key: bytes) -> Prefix | None:
        """The beginning of that key, if it is kept."""
        if key in self._kept:
            self._kept.move_to_end(key)
        return self._kept.get(key)

    def keep(self, key: bytes, prefix: Prefix) -> None:
        """Keeps a beginning in place of those that were not asked for the longest; one that is too large is not."""
        if prefix.memory > self.most_bytes:
            return
        self._kept[key] = prefix
        while self.memory > self.most_bytes:
            self._kept.popitem(last=False)

    def clear(self) -> None:
        """Forgets all."""
        self._kept.clear()


def kept_in(dtype: torch.dtype) -> torch.dtype:
    """What a beginning is kept in where a model computes in `dtype`: half of float32 is enough. What was just read is
    rounded likewise, so that no answer depends on what happens to be kept."""
    return torch.bfloat16 if dtype == torch.float32 else dtype


def key_of(embeds_PE: Tensor, positions_3P: Tensor, *names: str) -> bytes:
    """What tells a beginning from every other: its embeddings, where they stand, and who reads it how."""
    digest = hashlib.sha256("\0".join((*names, str(tuple(embeds_PE.shape)), "")).encode())
    for tensor in (embeds_PE, positions_3P):
        digest.update(tensor.contiguous().view(torch.uint8).cpu().numpy().data)
    return digest.digest()
