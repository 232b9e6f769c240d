"""Prefix caching: what the decoder made of a long prompt prefix, for the next question about the same recording.

Shapes: P positions of the prefix, E width.
"""

import hashlib
from collections import OrderedDict
from dataclasses import dataclass

import torch
from torch import Tensor

from model_core.language.kv_cache import KeyValueCache


@dataclass(frozen=True, slots=True)
class Prefix:
    """A prefix after prefill by the first layers.

    Attributes:
        cache: Keys and values of these layers.
        hidden_1PE: [1, P, E] hidden states after the last of them.
    """

    cache: KeyValueCache
    hidden_1PE: Tensor

    def to(self, dtype: torch.dtype, reserve: int = 0) -> "Prefix":
        """A copy in buffers of its own, with `reserve` as in KeyValueCache."""
        return Prefix(self.cache.copy(dtype, reserve), self.hidden_1PE.to(dtype))

    @property
    def nbytes(self) -> int:
        """Size in memory."""
        return self.cache.nbytes + self.hidden_1PE.nbytes


class PrefixCache:
    """Prefixes by key; the least recently used ones are evicted.

    Args:
        max_bytes: Capacity in bytes; 0 turns prefix caching off.
    """

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self._prefixes: OrderedDict[bytes, Prefix] = OrderedDict()

    @property
    def nbytes(self) -> int:
        """Bytes in use."""
        return sum(prefix.nbytes for prefix in self._prefixes.values())

    def get(self, key: bytes) -> Prefix | None:
        """The cached prefix, or None."""
        if key in self._prefixes:
            self._prefixes.move_to_end(key)
        return self._prefixes.get(key)

    def put(self, key: bytes, prefix: Prefix) -> None:
        """Caches a prefix and evicts others for it. One that is larger than the cache is not cached."""
        if prefix.nbytes > self.max_bytes:
            return
        self._prefixes[key] = prefix
        while self.nbytes > self.max_bytes:
            self._prefixes.popitem(last=False)

    def clear(self) -> None:
        """Evicts everything."""
        self._prefixes.clear()


def storage_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype in which prefixes of a model that computes in `dtype` are cached: bfloat16 for float32.

    A prefix that was just computed is rounded in the same way, so that a cache hit never changes an answer.
    """
    return torch.bfloat16 if dtype == torch.float32 else dtype


def prefix_key(embeds_PE: Tensor, positions_3P: Tensor, *names: str) -> bytes:
    """Hash of a prefix: its embeddings, their positions, and the names of tenant, adapter and number of layers."""
    digest = hashlib.sha256("\0".join((*names, str(tuple(embeds_PE.shape)), "")).encode())
    for tensor in (embeds_PE, positions_3P):
        digest.update(tensor.contiguous().view(torch.uint8).cpu().numpy().data)
    return digest.digest()
