"""Prefix caching: full pages by the content of everything up to them, shared between sequences.

A page's key is a hash of the key before it and of the page's embeddings and positions, so that equal keys mean equal
prefixes: text and media alike. The first key is a hash of tenant, adapter and layers; tenants never share pages. Pages
that no sequence uses stay until their memory is needed; the least recently used are evicted first.

Shapes: P positions of a page, L positions of a prompt, E width.
"""

import hashlib
from collections import OrderedDict
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from model_core.engine.page_pool import PAGE_SIZE, PageIds, PagePool
from model_core.engine.page_table import PageTable


@dataclass(slots=True)
class CachedPage:
    """PAGE_SIZE positions of a prefix.

    Attributes:
        key: Hash of the prefix up to the end of this page.
        pages: [layers] ids, one for each layer of the cache group.
        hidden: Ids of the pages with the hidden states behind the group, for prompts with an extraction; else empty.
        users: Number of sequences that use it.
    """

    key: bytes
    pages: PageIds
    hidden: PageIds
    users: int = 1


class PrefixCache:
    """Cached pages by key.

    Args:
        pool: Where they are allocated.
        max_unused: Maximum number of pages of the pool for prefixes that no sequence uses; 0 turns prefix caching off.

    Attributes:
        hits: Positions found so far.
        lookups: Positions looked for.
    """

    def __init__(self, pool: PagePool, max_unused: int) -> None:
        self.enabled = max_unused > 0
        self._max_unused = max_unused
        self.hits = 0
        self.lookups = 0
        self._pool = pool
        self._pages: dict[bytes, CachedPage] = {}
        self._unused: OrderedDict[bytes, CachedPage] = OrderedDict()
        self._unused_pages = 0
        pool.evict = self._evict

    @property
    def unused(self) -> int:
        """Number of pages of the pool that hold cached prefixes which no sequence uses."""
        return self._unused_pages

    def acquire(self, keys: list[bytes], table: PageTable) -> None:
        """Appends the cached pages with the first of these keys to an empty table, up to the first that is missing."""
        if not self.enabled:
            return
        for key in keys:
            page = self._pages.get(key)
            if page is None:
                break
            if page.users == 0:
                del self._unused[key]
                self._unused_pages -= _size(page)
            page.users += 1
            table.share(page)
        self.lookups += len(keys) * PAGE_SIZE
        self.hits += table.length

    def hidden(self, table: PageTable, width: int) -> Tensor:
        """[positions, E] hidden states behind the group, of the shared pages of a table, of which there is one."""
        return self._pool.read_hidden(np.concatenate([page.hidden for page in table.cached]), width)

    def publish(self, keys: list[bytes], table: PageTable, hidden_LE: Tensor | None = None) -> None:
        """Shares the full pages of a table, as far as there are keys, with sequences to come.

        Args:
            keys: Of the pages from the first on.
            table: Its pages behind those that are shared already become the cache's.
            hidden_LE: Hidden states behind the group, for prompts with an extraction.
        """
        if not self.enabled:
            return
        for index in range(len(table.cached), min(len(keys), table.length // PAGE_SIZE)):
            if keys[index] in self._pages:
                return  # computed twice at the same time: the second copy stays private
            hidden = np.empty(0, dtype=np.int64)
            if hidden_LE is not None:
                needed = self._pool.hidden_pages(hidden_LE.shape[1])
                if needed > self._pool.free:
                    return
                hidden = self._pool.allocate(needed)
                self._pool.write_hidden(hidden, hidden_LE[index * PAGE_SIZE : (index + 1) * PAGE_SIZE])
            page = CachedPage(keys[index], table.pages[:, index].copy(), hidden)
            self._pages[page.key] = page
            table.cached.append(page)

    def release(self, table: PageTable) -> None:
        """Ends a sequence's use of its shared pages, and gives back the pages that are its own."""
        # The last page first: it is evicted before those that it builds on.
        for page in reversed(table.cached):
            page.users -= 1
            if page.users == 0 and page.key in self._pages:
                self._unused[page.key] = page
                self._unused_pages += _size(page)
            elif page.users == 0:
                self._pool.release(page.pages)
        table.release(self._pool)
        self._evict(self._unused_pages - self._max_unused)

    def clear(self) -> None:
        """Evicts everything that no sequence uses."""
        self._evict(self._pool.pages)

    def _evict(self, missing: int) -> None:
        while missing > 0 and self._unused:
            _, page = self._unused.popitem(last=False)
            self._unused_pages -= _size(page)
            del self._pages[page.key]
            self._pool.release(page.pages)
            self._pool.release(page.hidden)
            missing -= _size(page)
        # Hidden states only serve requests to come: they go before a request that runs is preempted.
        for page in [each for each in self._pages.values() if len(each.hidden)] if missing > 0 else []:
            del self._pages[page.key]
            self._pool.release(page.hidden)
            page.hidden = page.hidden[:0]


def root_key(*names: str) -> bytes:
    """The key before the first page: whose pages they are and what made them."""
    return hashlib.blake2b("\0".join(names).encode(), digest_size=16).digest()


def page_keys(parent: bytes, embeds_LE: Tensor, positions_3L: Tensor) -> list[bytes]:
    """Keys of the full pages of a prompt, or of what follows the page with the key `parent`."""
    keys = []
    for start in range(0, len(embeds_LE) - PAGE_SIZE + 1, PAGE_SIZE):
        digest = hashlib.blake2b(parent, digest_size=16)
        for tensor in (embeds_LE[start : start + PAGE_SIZE], positions_3L[:, start : start + PAGE_SIZE]):
            digest.update(tensor.contiguous().cpu().view(-1).view(torch.uint8).numpy().data)
        parent = digest.digest()
        keys.append(parent)
    return keys


def _size(page: CachedPage) -> int:
    return len(page.pages) + len(page.hidden)
