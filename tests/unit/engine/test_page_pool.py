"""The allocator and the prefix cache against a model of them, and what pages store."""

import numpy as np
import pytest
import torch
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from model_core.engine.page_pool import NULL_PAGE, PAGE_SIZE, OutOfPages, PagePool, PageShape
from model_core.engine.page_table import PageTable
from model_core.engine.prefix_cache import PrefixCache, page_keys, root_key

SHAPE = PageShape(heads=2, head_width=4, dtype=torch.float32)
PAGES = 40


class Allocator(RuleBasedStateMachine):
    """Tables grow, share prefixes, publish and end in any order; every page has one owner at any time."""

    def __init__(self) -> None:
        super().__init__()
        self.pool = PagePool(PAGES, SHAPE)
        self.cache = PrefixCache(self.pool, max_unused=20)
        self.tables: dict[int, tuple[PageTable, list[bytes]]] = {}
        self.count = 0

    @rule(layers=st.integers(1, 3), prompt=st.integers(0, 2), length=st.integers(1, 100))
    def begin(self, layers: int, prompt: int, length: int) -> None:
        embeds = torch.full((length, 4), float(prompt))
        keys = page_keys(root_key(str(layers)), embeds, torch.arange(length).expand(3, -1))
        table = PageTable(0, layers)
        self.cache.acquire(keys[: (length - 1) // PAGE_SIZE], table)
        self.count += 1
        self.tables[self.count] = table, keys

    @rule(positions=st.integers(1, 60), pick=st.integers(0, 1000))
    def grow(self, positions: int, pick: int) -> None:
        if not self.tables:
            return
        table, keys = list(self.tables.values())[pick % len(self.tables)]
        before = self.pool.free + self.cache.unused
        needed = table.missing(table.length + positions)
        try:
            table.grow(table.length + positions, self.pool)
        except OutOfPages:
            assert needed > before
            return
        table.length += positions
        self.cache.publish(keys, table)

    @rule(pick=st.integers(0, 1000))
    def end(self, pick: int) -> None:
        if self.tables:
            number = list(self.tables)[pick % len(self.tables)]
            self.cache.release(self.tables.pop(number)[0])

    @rule()
    def clear(self) -> None:
        self.cache.clear()
        assert self.cache.unused == 0

    @invariant()
    def every_page_has_one_owner(self) -> None:
        shared = {id(page): page for table, _ in self.tables.values() for page in table.cached}
        private = [table.pages[:, len(table.cached) :] for table, _ in self.tables.values()]
        held = np.concatenate(
            [*(pages.reshape(-1) for pages in private), *(each.pages for each in shared.values()), []]
        )
        assert len(set(held)) == len(held)
        assert NULL_PAGE not in held
        assert self.pool.free + self.cache.unused + len(held) == PAGES

    @invariant()
    def unused_prefixes_stay_within_their_limit(self) -> None:
        assert self.cache.unused <= 20


TestAllocator = Allocator.TestCase
TestAllocator.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)


def test_keys_and_values_come_back_as_they_were_written() -> None:
    pool = PagePool(4, SHAPE)
    table = PageTable(0, 1)
    table.grow(20, pool)
    kv = torch.randn(20, 2, 2, 4)
    pool.write(torch.from_numpy(table.slots(0, 20)[0]), kv)
    keys, values = pool.read(torch.from_numpy(table.pages[0]), 1)
    assert torch.equal(keys[0, :, :20], kv[:, 0].transpose(0, 1))
    assert torch.equal(values[0, :, :20], kv[:, 1].transpose(0, 1))


def test_eight_bit_pages_take_half_the_memory_and_lose_less_than_a_percent() -> None:
    wide = PageShape(heads=2, head_width=64, dtype=torch.bfloat16)
    narrow = PageShape(heads=2, head_width=64, dtype=torch.bfloat16, eight_bits=True)
    assert narrow.nbytes < 0.52 * wide.nbytes
    pool = PagePool(2, narrow)
    kv = torch.randn(16, 2, 2, 64).bfloat16()
    pool.write(torch.arange(PAGE_SIZE, 2 * PAGE_SIZE), kv)
    keys, _ = pool.read(torch.tensor([1]), 1)
    error = (keys[0].float() - kv[:, 0].transpose(0, 1).float()).norm() / kv[:, 0].float().norm()
    assert error < 0.01


@pytest.mark.parametrize("eight_bits", [False, True])
def test_hidden_states_come_back_bit_by_bit(eight_bits: bool) -> None:
    pool = PagePool(60, PageShape(heads=2, head_width=4, dtype=torch.float32, eight_bits=eight_bits))
    first, second = torch.randn(PAGE_SIZE, 10), torch.randn(PAGE_SIZE, 10)
    count = pool.hidden_pages(10)
    pages = pool.allocate(2 * count)
    pool.write_hidden(pages[:count], first)
    pool.write_hidden(pages[count:], second)
    assert torch.equal(pool.read_hidden(pages, 10), torch.cat((first, second)))


def test_no_page_is_taken_when_there_are_too_few() -> None:
    pool = PagePool(3, SHAPE)
    with pytest.raises(OutOfPages):
        pool.allocate(4)
    assert pool.free == 3
