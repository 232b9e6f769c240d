"""A request while it runs: its prompt on the way through the blocks of layers, its pages, its answer.

Shapes: L positions of a block, E width, H heads, Q instruction tokens, D head width.
"""

from collections import deque
from dataclasses import dataclass, field
from itertools import pairwise

import torch
from torch import Tensor

from model_core.engine.detokenizer import IncrementalDetokenizer
from model_core.engine.page_pool import PAGE_SIZE
from model_core.engine.page_table import PageTable, pages_for
from model_core.engine.request import Usage
from model_core.engine.sampler import RowSampling
from model_core.language.extractor import ExtractionConfig, context_scores, kept_positions
from model_core.language.splicing import SplicedPrompt


@dataclass(slots=True)
class BlockInput:
    """What the layers of one block read of a prompt.

    Attributes:
        hidden: [L, E] hidden states.
        positions: [3, L] in time, height and width.
        context: [L] booleans, True for context tokens.
        instruction: [L] booleans, True for instruction tokens.
    """

    hidden: Tensor
    positions: Tensor
    context: Tensor
    instruction: Tensor

    def keep(self, hidden_LE: Tensor, kept: Tensor) -> "BlockInput":
        """The next block's input: these positions of this block's output."""
        return BlockInput(hidden_LE[kept], self.positions[:, kept], self.context[kept], self.instruction[kept])


@dataclass(slots=True, kw_only=True)
class Sequence:
    """State of one request.

    Attributes:
        request_id: Unique among the engine's requests.
        prompt: What is answered.
        positions: [3, L] of the prompt, in time, height and width.
        max_tokens: Maximum number of tokens of the answer.
        adapter: LoRA adapter; None for the base model.
        tenant: Whose request it is.
        priority: Lower is more urgent.
        hidden_states: Whether each token comes with its hidden state.
        extraction: What is dropped between blocks.
        layers: Number of the decoder's layers.
        sampling: State of the sampler for this row.
        detokenizer: Turns tokens into text.
        page_keys: Content hashes of the prompt's full pages, for the prefix cache.
        root_key: Hash that they start from.
        groups: A page table for each block of layers.
        block: The block that the prompt is in; `len(groups)` once the answer has begun.
        block_input: What this block reads; None once the answer has begun.
        done: Positions of the block that have been processed.
        cached_tokens: Prompt positions found in the prefix cache.
        pending: Tokens of the answer that the decoder has not read yet.
        generated: All tokens of the answer.
        context_tokens: Number of context tokens in each block so far.
        end_position: Position behind the prompt's largest, where the answer begins.
    """

    request_id: str
    prompt: SplicedPrompt
    positions: Tensor
    max_tokens: int
    adapter: str | None
    tenant: str
    priority: int
    hidden_states: bool
    extraction: ExtractionConfig
    layers: int
    sampling: RowSampling
    detokenizer: IncrementalDetokenizer
    root_key: bytes
    page_keys: list[bytes]
    arrival: float = 0.0
    groups: list[PageTable] = field(default_factory=list)
    block: int = 0
    block_input: BlockInput | None = None
    done: int = 0
    cached_tokens: int = 0
    pending: deque[int] = field(default_factory=deque)
    generated: list[int] = field(default_factory=list)
    context_tokens: list[int] = field(default_factory=list)
    end_position: int = field(init=False)
    _first_instruction: int | None = field(init=False)
    _outputs: list[Tensor] = field(default_factory=list)
    _queries: list[Tensor] = field(default_factory=list)

    def __post_init__(self) -> None:
        instruction = self.prompt.instruction.nonzero()
        self._first_instruction = int(instruction[0]) if len(instruction) else None
        self.end_position = int(self.positions.max()) + 1
        self.restart()

    @property
    def prefilling(self) -> bool:
        """Whether the prompt has not been read completely."""
        return self.block_input is not None

    @property
    def group(self) -> PageTable:
        """Page table of the block that the prompt is in."""
        return self.groups[self.block]

    @property
    def remaining(self) -> int:
        """Positions of the block that have not been processed."""
        return len(self.block_input.hidden) - self.done if self.block_input else 0

    @property
    def last_block(self) -> bool:
        """Whether the prompt is in its last block."""
        return self.block == len(self.groups) - 1

    @property
    def usage(self) -> Usage:
        """Tokens so far."""
        return Usage(
            prompt_tokens=len(self.prompt.embeds),
            speech_tokens=self.prompt.speech_tokens,
            vision_tokens=self.prompt.vision_tokens,
            completion_tokens=len(self.generated),
            adapter=self.adapter or "",
            context_tokens=tuple(self.context_tokens),
            cached_tokens=self.cached_tokens,
        )

    def restart(self) -> None:
        """Goes back to the beginning of the prompt; the answer's tokens so far are read again behind it."""
        ends = [end + 1 for end in self.extraction.block_ends(self.layers)] if self.extraction.drops else []
        bounds = [0, *ends, self.layers]
        self.groups = [PageTable(first, end) for first, end in pairwise(bounds)]
        self.block, self.done = 0, 0
        prompt = self.prompt
        self.block_input = BlockInput(prompt.embeds, self.positions, prompt.context, prompt.instruction)
        self.context_tokens = [prompt.speech_tokens + prompt.vision_tokens]
        self.pending = deque(self.generated)
        self._outputs, self._queries = [], []

    def planned_pages(self, reserve: int) -> int:
        """Pages that the prompt and the next `reserve` tokens of the answer take, as extraction will leave it."""
        context = self.prompt.speech_tokens + self.prompt.vision_tokens
        text = len(self.prompt.embeds) - context
        pages = 0
        for index, group in enumerate(self.groups):
            if index and self._first_instruction is not None:
                context = self.extraction.kept(context)
            more = len(self.generated) + min(reserve, self.max_tokens - len(self.generated))
            pages += pages_for(text + context + more) * group.layers
        return pages

    def reusable(self) -> int:
        """Number of the prompt's full pages whose keys and values do not depend on what follows, and may be skipped.

        The last position is always computed, since the first token is sampled from it. With an extraction, so is all
        from the first instruction token on, whose queries choose what is kept.
        """
        end = len(self.prompt.embeds) - 1
        if self.extraction.drops and self._first_instruction is not None:
            end = min(end, self._first_instruction)
        return min(len(self.page_keys), end // PAGE_SIZE)

    def read_chunk(self, hidden_NE: Tensor, queries_HQD: Tensor | None) -> None:
        """Takes what the block's layers made of the next positions, and the last layer's queries of the instruction."""
        self.done += len(hidden_NE)
        if not self.last_block:
            self._outputs.append(hidden_NE)
            if queries_HQD is not None:
                self._queries.append(queries_HQD)

    def skip_cached(self, hidden_LE: Tensor | None) -> None:
        """Goes past the positions that the prefix cache had, with their hidden states where the block has a next."""
        self.done = self.cached_tokens = self.groups[0].length
        if hidden_LE is not None:
            self._outputs.append(hidden_LE)

    def block_output(self) -> Tensor:
        """[L, E] hidden states behind the current block."""
        self._outputs = [torch.cat(self._outputs)]
        return self._outputs[0]

    def next_block(self, keys_KLD: Tensor) -> None:
        """Chooses what is kept and moves the prompt on to the next block.

        Args:
            keys_KLD: Keys of the block's last layer, after rotary embedding.
        """
        assert self.block_input is not None
        context_L = self.block_input.context
        count = int(context_L.sum())
        kept = torch.arange(len(context_L), device=context_L.device)
        if self._queries and self.extraction.kept(count) < count:
            scores = context_scores(torch.cat(self._queries, dim=1), keys_KLD, context_L)
            kept = kept_positions(scores, context_L, self.extraction.keep_rate)
        self.block_input = self.block_input.keep(self.block_output(), kept)
        self._outputs, self._queries = [], []
        self.context_tokens.append(int(self.block_input.context.sum()))
        self.block += 1
        self.done = 0

    def begin_answer(self) -> None:
        """Ends the prompt."""
        self.block_input = None
        self.block = len(self.groups)

    def answer_positions(self, count: int) -> Tensor:
        """[3, count] positions of the next pending tokens: text continues after the largest of the prompt."""
        first = self.end_position + len(self.generated) - len(self.pending)
        return torch.arange(first, first + count, device=self.positions.device).expand(3, -1)
