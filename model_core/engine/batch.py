"""What one step computes: segments of sequences, and for each run of layers the tensors that its attention needs.

Shapes: N tokens of a step, all segments joined; R rows of a bucket, S positions that they attend to, padded; L layers
of a span; D head width.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise

import numpy as np
import torch
from torch import Tensor

from model_core.engine.page_pool import NULL_PAGE, PAGE_SIZE
from model_core.engine.page_table import PageTable, pages_for
from model_core.engine.sequence import Sequence as RunningSequence


@dataclass(frozen=True, slots=True)
class Segment:
    """Neighbouring tokens of one sequence that a step processes: a chunk of its prompt, or tokens of its answer.

    Attributes:
        count: Number of tokens.
        first_layer: Where they enter the decoder.
        end_layer: The layer behind the last one that they run through.
    """

    sequence: RunningSequence
    count: int
    first_layer: int
    end_layer: int

    @classmethod
    def of(cls, sequence: RunningSequence, count: int) -> "Segment":
        """The next `count` tokens of a sequence."""
        if sequence.prefilling:
            return cls(sequence, count, sequence.group.first_layer, sequence.group.end_layer)
        return cls(sequence, count, 0, sequence.layers)

    @property
    def groups(self) -> list[PageTable]:
        """Cache groups that the segment runs through."""
        return [self.sequence.group] if self.sequence.prefilling else self.sequence.groups

    def group_at(self, layer: int) -> PageTable:
        """The cache group of a layer."""
        return next(group for group in self.groups if group.first_layer <= layer < group.end_layer)

    @property
    def completes(self) -> bool:
        """Whether the next token of the answer can be sampled behind it."""
        sequence = self.sequence
        if sequence.prefilling:
            return sequence.last_block and self.count == sequence.remaining
        return self.count == len(sequence.pending)


@dataclass(frozen=True, slots=True)
class DecodeBucket:
    """Rows of one token each that attend to about equally many positions.

    Attributes:
        rows: [R] int64 indices of their tokens in the step.
        pages: [L, R * S / PAGE_SIZE] int64.
        mask: [R, 1, 1, S] booleans, True where a row attends; None if all attend to all.
    """

    rows: Tensor
    pages: Tensor
    mask: Tensor | None


@dataclass(frozen=True, slots=True)
class ChunkRow:
    """Tokens of one sequence, each of which attends up to itself.

    Attributes:
        segment: Index of their segment.
        tokens: Where they are in the step.
        pages: [L, S / PAGE_SIZE] int64; None if nothing comes before them.
        mask: [tokens, S] booleans.
        queries: [Q] int64 indices, within the chunk, of instruction tokens whose queries the extraction needs.
    """

    segment: int
    tokens: slice
    pages: Tensor | None
    mask: Tensor | None
    queries: Tensor | None


@dataclass(frozen=True, slots=True)
class Span:
    """Neighbouring layers that the same segments run through, each within one of its cache groups.

    Attributes:
        active: Indices of these segments.
        slots: [L, N] int64, where each token's key and value are stored.
    """

    first_layer: int
    end_layer: int
    active: tuple[int, ...]
    slots: Tensor
    buckets: tuple[DecodeBucket, ...]
    chunks: tuple[ChunkRow, ...]


def spans(segments: Sequence[Segment], device: torch.device) -> Iterator[Span]:
    """Divides the decoder's layers where a segment starts or ends, or changes from one cache group to the next."""
    bounds = {
        bound for segment in segments for group in segment.groups for bound in (group.first_layer, group.end_layer)
    }
    for first, end in pairwise(sorted(bounds)):
        active = tuple(i for i, segment in enumerate(segments) if segment.first_layer <= first < segment.end_layer)
        if active:
            yield _span(first, end, active, [segments[i] for i in active], device)


def _span(first: int, end: int, active: tuple[int, ...], segments: Sequence[Segment], device: torch.device) -> Span:
    tables = [segment.group_at(first) for segment in segments]
    own = [slice(first - table.first_layer, end - table.first_layer) for table in tables]
    slots = [
        table.slots(table.length, segment.count)[layers]
        for segment, table, layers in zip(segments, tables, own, strict=True)
    ]
    starts = np.cumsum([0, *(segment.count for segment in segments)])
    queries = [_instruction_queries(segment) for segment in segments]
    singles = [i for i, segment in enumerate(segments) if segment.count == 1 and queries[i] is None]
    # Rows whose padding at most doubles what they read share a call.
    singles.sort(key=lambda i: tables[i].length)
    buckets = [
        _bucket([(int(starts[i]), tables[i], own[i]) for i in sorted(members)], device)
        for _, members in groupby(singles, key=lambda i: pages_for(tables[i].length + 1).bit_length())
    ]
    chunks = [
        ChunkRow(active[i], slice(int(starts[i]), int(starts[i + 1])), *_before(segment, tables[i], own[i]), queries[i])
        for i, segment in enumerate(segments)
        if i not in singles
    ]
    joined = torch.from_numpy(np.concatenate(slots, axis=1)).to(device)
    return Span(first, end, active, joined, tuple(buckets), tuple(chunks))


def _bucket(members: list[tuple[int, PageTable, slice]], device: torch.device) -> DecodeBucket:
    lengths = [table.length + 1 for _, table, _ in members]
    width = pages_for(max(lengths))
    layers = members[0][2].stop - members[0][2].start
    pages = np.full((layers, len(members), width), NULL_PAGE, dtype=np.int64)
    for row, ((_, table, own), length) in enumerate(zip(members, lengths, strict=True)):
        pages[:, row, : pages_for(length)] = table.pages[own, : pages_for(length)]
    mask = None
    if min(lengths) < width * PAGE_SIZE:
        mask = torch.arange(width * PAGE_SIZE, device=device) < torch.tensor(lengths, device=device)[:, None]
        mask = mask[:, None, None]
    rows = torch.tensor([start for start, _, _ in members], device=device)
    return DecodeBucket(rows, torch.from_numpy(pages.reshape(layers, -1)).to(device), mask)


def _before(segment: Segment, table: PageTable, own: slice) -> tuple[Tensor | None, Tensor | None]:
    """Pages and mask of a chunk, as ChunkRow has them."""
    if table.length == 0:
        return None, None
    device = segment.sequence.positions.device
    width = pages_for(table.length + segment.count)
    pages = torch.from_numpy(np.ascontiguousarray(table.pages[own, :width])).to(device)
    until = torch.arange(table.length, table.length + segment.count, device=device)
    return pages, torch.arange(width * PAGE_SIZE, device=device) <= until[:, None]


def _instruction_queries(segment: Segment) -> Tensor | None:
    """Indices of the instruction tokens in a chunk of a prompt whose context tokens are going to be ranked."""
    sequence = segment.sequence
    if sequence.block_input is None or sequence.last_block:
        return None
    chunk = sequence.block_input.instruction[sequence.done : sequence.done + segment.count]
    return chunk.nonzero()[:, 0] if chunk.any() else None
