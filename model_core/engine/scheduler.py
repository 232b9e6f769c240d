"""Decides what each step computes: whom to admit, which tokens to run, whom to preempt when memory runs out.

Every running answer advances in every step; prompts share what is left of the step's budget of tokens, so that no
answer waits for a prompt to be read.
"""

from dataclasses import dataclass, field

from model_core.engine.batch import Segment
from model_core.engine.cost_model import CostModel
from model_core.engine.page_pool import OutOfPages, PagePool
from model_core.engine.prefix_cache import PrefixCache
from model_core.engine.sequence import Sequence
from model_core.engine.waiting_queue import WaitingQueue

# Tokens of an answer for which memory is set aside on admission; beyond that, memory is taken as it is free.
_RESERVE = 64


@dataclass(slots=True)
class Batch:
    """A step's segments: tokens of answers first, then chunks of prompts.

    Attributes:
        rows: Number of answers among them.
        cut: Sequences whose answers end here, because no memory is left for them.
    """

    segments: list[Segment] = field(default_factory=list)
    rows: int = 0
    cut: list[Sequence] = field(default_factory=list)

    @property
    def tokens(self) -> int:
        """Number of all tokens."""
        return sum(segment.count for segment in self.segments)

    @property
    def prompt_tokens(self) -> float:
        """Prompt tokens among them; one that runs through half of the layers counts half."""
        chunks = self.segments[self.rows :]
        return sum(chunk.count * (chunk.end_layer - chunk.first_layer) / chunk.sequence.layers for chunk in chunks)


class Scheduler:
    """Waiting and running sequences.

    Args:
        pool: Memory of keys and values.
        cache: Prefixes in it.
        cost: Decides how many prompt tokens a step takes.
        max_rows: Maximum number of sequences that run at the same time.

    Attributes:
        preemptions: Number of sequences that lost their memory to others so far.
    """

    def __init__(self, pool: PagePool, cache: PrefixCache, cost: CostModel, max_rows: int) -> None:
        self.waiting = WaitingQueue()
        self.running: list[Sequence] = []
        self.preemptions = 0
        self._pool = pool
        self._cache = cache
        self._cost = cost
        self._max_rows = max_rows

    def schedule(self) -> Batch:
        """The next step; empty if nothing is left to do."""
        self._admit()
        batch = Batch()
        for sequence in sorted((each for each in self.running if not each.prefilling), key=_urgency):
            self._add_tokens(batch, sequence)
        batch.rows = len(batch.segments)
        prompts = sorted((each for each in self.running if each.prefilling), key=_urgency)
        budget = float(self._cost.prompt_budget(batch.rows, len(prompts)))
        for sequence in prompts:
            budget -= self._add_chunk(batch, sequence, budget)
            if budget < 1:
                break
        return batch

    def remove(self, sequence: Sequence) -> None:
        """Ends a sequence, wherever it is, and frees its memory."""
        if sequence in self.running:
            self.running.remove(sequence)
            self._release(sequence)
        else:
            self.waiting.remove(sequence)
        self.waiting.leave(sequence)

    def _admit(self) -> None:
        while len(self.running) < self._max_rows and (sequence := self.waiting.peek()):
            if not self._fits(sequence):
                less_urgent = [each for each in self.running if each.priority > sequence.priority]
                if not less_urgent:
                    return
                self._preempt(max(less_urgent, key=_urgency))
                continue
            self.waiting.remove(sequence)
            self._reuse(sequence)
            self.running.append(sequence)

    def _fits(self, sequence: Sequence) -> bool:
        """Whether the pages that it is going to need are neither in use nor promised to those that run."""
        promised = sum(max(each.planned_pages(_RESERVE) - _held(each), 0) for each in self.running)
        available = self._pool.free + self._cache.unused - promised
        return sequence.planned_pages(_RESERVE) <= available or not self.running

    def _reuse(self, sequence: Sequence) -> None:
        """Skips what the prefix cache has of the prompt."""
        table = sequence.groups[0]
        self._cache.acquire(sequence.page_keys[: sequence.reusable()], table)
        hidden = len(sequence.groups) > 1 and table.length > 0
        sequence.skip_cached(self._cache.hidden(table, sequence.prompt.embeds.shape[1]) if hidden else None)

    def _add_tokens(self, batch: Batch, sequence: Sequence) -> None:
        if sequence not in self.running:  # preempted for one before it
            return
        count = min(len(sequence.pending), self._cost.max_tokens)
        if self._grow(batch, sequence, count):
            batch.segments.append(Segment.of(sequence, count))

    def _add_chunk(self, batch: Batch, sequence: Sequence, budget: float) -> float:
        """Adds the next chunk of a prompt. Returns what it takes of the budget."""
        if sequence not in self.running:
            return 0.0
        share = sequence.group.layers / sequence.layers
        count = min(sequence.remaining, max(int(budget / share), 1))
        if not self._grow(batch, sequence, count):
            return 0.0
        batch.segments.append(Segment.of(sequence, count))
        return count * share

    def _grow(self, batch: Batch, sequence: Sequence, count: int) -> bool:
        """Allocates pages for the sequence's next tokens; others, or it itself, lose theirs if there are too few."""
        while True:
            try:
                for group in [sequence.group] if sequence.prefilling else sequence.groups:
                    group.grow(group.length + count, self._pool)
                return True
            except OutOfPages:
                taken = {segment.sequence.request_id for segment in batch.segments}
                others = [each for each in self.running if each is not sequence and each.request_id not in taken]
                victims = [each for each in others if _urgency(each) > _urgency(sequence)]
                if victims:
                    self._preempt(max(victims, key=_urgency))
                elif len(self.running) > 1:
                    self._preempt(sequence)
                    return False
                else:
                    batch.cut.append(sequence)
                    return False

    def _preempt(self, sequence: Sequence) -> None:
        """Takes a sequence's memory; it runs again, from its prompt, as soon as there is room."""
        self.preemptions += 1
        self.running.remove(sequence)
        self._release(sequence)
        sequence.restart()
        self.waiting.push_front(sequence)

    def _release(self, sequence: Sequence) -> None:
        for group in sequence.groups:
            self._cache.release(group)


def _held(sequence: Sequence) -> int:
    return sum(group.pages.size for group in sequence.groups)


def _urgency(sequence: Sequence) -> tuple[int, float]:
    """Sorts the most urgent first: by priority, then by arrival."""
    return sequence.priority, sequence.arrival
