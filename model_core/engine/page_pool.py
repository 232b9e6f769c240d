"""Pages: the memory of the key-value cache, shared by all layers of all sequences.

A page holds the keys and values of PAGE_SIZE positions of one layer. All pages come from one pool, so that memory
which one layer does not need serves another: behind an extraction, later layers hold fewer positions.

Shapes: G pages, P positions of a page, K key-value heads, D head width, N positions, R rows, E width.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

PageIds = npt.NDArray[np.int64]

PAGE_SIZE = 16
# Never allocated: rows of a batch are padded with it.
NULL_PAGE = 0


class OutOfPages(Exception):
    """The pool has fewer free pages than were asked for, and nothing is left to evict."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PageShape:
    """Shape of a page, from the decoder that it belongs to."""

    heads: int
    head_width: int
    dtype: torch.dtype
    eight_bits: bool = False

    @property
    def nbytes(self) -> int:
        """Bytes of a page; 8-bit pages have a scale for each key and value."""
        values = PAGE_SIZE * 2 * self.heads
        return values * (self.head_width + 2) if self.eight_bits else values * self.head_width * self.dtype.itemsize


class PagePool:
    """Allocates pages and reads and writes keys and values.

    Args:
        pages: Number of pages.
        shape: Shape of a page.
        device: Where they are.

    Attributes:
        evict: Called with the number of pages that are missing; releases cached pages if it can.
    """

    def __init__(self, pages: int, shape: PageShape, device: torch.device | str = "cpu") -> None:
        self.pages = pages
        self.shape = shape
        self.evict: Callable[[int], None] = lambda missing: None
        kind = torch.int8 if shape.eight_bits else shape.dtype
        self._values = _zeros((pages + 1, PAGE_SIZE, 2, shape.heads, shape.head_width), kind, torch.device(device))
        self._scales: Tensor | None = None
        if shape.eight_bits:
            self._scales = _zeros(self._values.shape[:-1], torch.float16, torch.device(device))
        self._free: PageIds = np.arange(pages, 0, -1, dtype=np.int64)
        self._free_count = pages

    @property
    def free(self) -> int:
        """Number of pages that nobody holds."""
        return self._free_count

    @property
    def allocated(self) -> int:
        """Number of pages that sequences and the prefix cache hold."""
        return self.pages - self._free_count

    def allocate(self, count: int) -> PageIds:
        """Takes pages, after evicting cached ones if there are too few.

        Raises:
            OutOfPages: there are still too few; none is taken.
        """
        if count > self._free_count:
            self.evict(count - self._free_count)
        if count > self._free_count:
            raise OutOfPages
        self._free_count -= count
        # Ascending, so that a sequence alone in the pool lies in order.
        return self._free[self._free_count : self._free_count + count][::-1].copy()

    def release(self, pages: PageIds) -> None:
        """Gives pages back."""
        flat = pages.reshape(-1)
        self._free[self._free_count : self._free_count + len(flat)] = flat[::-1]
        self._free_count += len(flat)

    def write(self, slots_N: Tensor, kv_N2KD: Tensor) -> None:
        """Stores keys and values.

        Args:
            slots_N: int64, page * PAGE_SIZE + position in the page.
            kv_N2KD: Keys, after rotary embedding, and values.
        """
        if self._scales is None:
            self._values.view(-1, *self._values.shape[2:]).index_copy_(0, slots_N, kv_N2KD)
            return
        scales = kv_N2KD.float().abs().amax(-1).clamp(min=1e-8) / 127
        rounded = (kv_N2KD.float() / scales[..., None]).round().to(torch.int8)
        self._values.view(-1, *self._values.shape[2:]).index_copy_(0, slots_N, rounded)
        self._scales.view(-1, *self._scales.shape[2:]).index_copy_(0, slots_N, scales.half())

    def read(self, pages: Tensor, rows: int) -> tuple[Tensor, Tensor]:
        """Keys and values of `rows` sequences, [R, K, S, D] each.

        Args:
            pages: [R * S / P] int64; the pages of each row in order, padded with NULL_PAGE.
        """
        kv = self._values.index_select(0, pages)
        if self._scales is not None:
            kv = kv.to(self.shape.dtype) * self._scales.index_select(0, pages)[..., None].to(self.shape.dtype)
        kv = kv.view(rows, -1, *kv.shape[2:])
        return kv[:, :, 0].transpose(1, 2), kv[:, :, 1].transpose(1, 2)

    def hidden_pages(self, width: int) -> int:
        """Number of pages that the hidden states of PAGE_SIZE positions occupy, which `write_hidden` stores."""
        return math.ceil(PAGE_SIZE * width * self.shape.dtype.itemsize / self._bytes().shape[1])

    def write_hidden(self, pages: PageIds, hidden_PE: Tensor) -> None:
        """Stores the hidden states of PAGE_SIZE positions in as many pages as `hidden_pages` says."""
        own = hidden_PE.contiguous().view(-1).view(torch.uint8)
        padded = F.pad(own, (0, len(pages) * self._bytes().shape[1] - len(own)))
        self._bytes()[torch.from_numpy(pages)] = padded.view(len(pages), -1)

    def read_hidden(self, pages: PageIds, width: int) -> Tensor:
        """[positions, E] of what `write_hidden` stored in these pages, in order."""
        flat = self._bytes()[torch.from_numpy(pages)].view(len(pages) // self.hidden_pages(width), -1)
        own = flat[:, : PAGE_SIZE * width * self.shape.dtype.itemsize].contiguous()
        return own.view(self.shape.dtype).view(-1, width)

    def _bytes(self) -> Tensor:
        return self._values.view(self.pages + 1, -1).view(torch.uint8)


def _zeros(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Zeros, since the null page must never hold NaN. On a CPU, memory is only taken as it is written."""
    if device.type != "cpu":
        return torch.zeros(shape, dtype=dtype, device=device)
    # NumPy leaves it to the operating system to fill pages with zeros; torch.zeros writes them.
    return torch.from_numpy(np.zeros(math.prod(shape) * dtype.itemsize, dtype=np.uint8)).view(dtype).view(shape)
