"""Page tables: which pages hold a sequence's positions, for each block of layers between two extractions.

Shapes: P positions of a page.
"""

import math
from typing import TYPE_CHECKING

import numpy as np

from model_core.engine.page_pool import PAGE_SIZE, PageIds, PagePool

if TYPE_CHECKING:
    from model_core.engine.prefix_cache import CachedPage


class PageTable:
    """The pages of one cache group: neighbouring layers of a sequence, which hold the same positions.

    Args:
        first_layer: First decoder layer of the group.
        end_layer: The layer behind its last one.

    Attributes:
        length: Number of positions that are stored.
        pages: [layers, pages] ids; the last page of each layer may be partly filled.
        cached: Leading pages that the prefix cache shares with other sequences.
    """

    def __init__(self, first_layer: int, end_layer: int) -> None:
        self.first_layer = first_layer
        self.end_layer = end_layer
        self.length = 0
        self.pages: PageIds = np.empty((end_layer - first_layer, 0), dtype=np.int64)
        self.cached: list[CachedPage] = []

    @property
    def layers(self) -> int:
        """Number of layers."""
        return self.end_layer - self.first_layer

    @property
    def held(self) -> int:
        """Number of pages of each layer."""
        return int(self.pages.shape[1])

    def missing(self, positions: int) -> int:
        """Number of pages that have to be allocated before so many positions fit."""
        return max(pages_for(positions) - self.held, 0) * self.layers

    def grow(self, positions: int, pool: PagePool) -> None:
        """Allocates pages for so many positions. Raises OutOfPages, and changes nothing, if there are too few."""
        missing = self.missing(positions)
        if missing:
            new = pool.allocate(missing).reshape(self.layers, -1)
            self.pages = np.concatenate((self.pages, new), axis=1)

    def share(self, page: "CachedPage") -> None:
        """Appends a page of the prefix cache; only while the table holds nothing else."""
        self.pages = np.concatenate((self.pages, page.pages[:, None]), axis=1)
        self.cached.append(page)
        self.length += PAGE_SIZE

    def slots(self, start: int, count: int) -> PageIds:
        """[layers, count] places of positions `start` to `start + count`, as `PagePool.write` takes them."""
        positions = np.arange(start, start + count)
        return self.pages[:, positions // PAGE_SIZE] * PAGE_SIZE + positions % PAGE_SIZE

    def release(self, pool: PagePool) -> None:
        """Gives back the pages that only this sequence holds; those of the prefix cache are its own to release."""
        pool.release(self.pages[:, len(self.cached) :])
        self.pages = self.pages[:, :0]
        self.cached = []
        self.length = 0


def pages_for(positions: int) -> int:
    """Number of pages of one layer that hold so many positions."""
    return math.ceil(positions / PAGE_SIZE)
