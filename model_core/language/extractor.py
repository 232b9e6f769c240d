"""The latent multi-modality extractor (Lyra, section 3.4): drops context tokens that the instruction ignores.

The layers are divided into blocks. After each block but the last, context tokens (speech and vision) are ranked by the
attention that instruction tokens pay them in the block's last layer, and only the top share is kept; all other
positions always are. Each sequence of a padded batch is treated separately.

Shapes: B batch, H heads, K key-value heads, G heads a key-value head, L positions, Q instruction tokens, D head width,
E width.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal

import torch
from einops import rearrange
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from model_core.errors import InvalidInput

MIN_CONTEXT_TOKENS = 32
# Attention weights held in memory at a time while scoring.
_MAX_WEIGHTS = 1 << 20


@dataclass(frozen=True, slots=True)
class ExtractionConfig:
    """Settings of the extractor.

    Attributes:
        blocks: Number of blocks that the layers are divided into; 1 turns extraction off.
        keep_rate: Share of the context tokens kept after each block but the last; 1 turns extraction off.
    """

    blocks: int = 1
    keep_rate: float = 1.0

    @property
    def drops(self) -> bool:
        """Whether extraction is on."""
        return self.blocks > 1 and self.keep_rate < 1

    def check(self, layers: int) -> None:
        """Raises InvalidInput if `blocks` or `keep_rate` is out of bounds for a decoder of so many layers."""
        if not 1 <= self.blocks <= layers:
            raise InvalidInput("blocks", f"{self.blocks} is not between 1 and {layers}, the model's number of layers")
        if not 0 < self.keep_rate <= 1:
            raise InvalidInput("keep_rate", f"{self.keep_rate:g} is not greater than 0 and at most 1")

    def block_ends(self, layers: int) -> list[int]:
        """Indices of the last layer of every block but the last."""
        return [(block + 1) * layers // self.blocks - 1 for block in range(self.blocks - 1)]

    def kept(self, context: int) -> int:
        """How many of `context` tokens are kept for the next block; at least `MIN_CONTEXT_TOKENS`."""
        # In decimal, as the rate is written: in binary 0.7 * 350 is less than 245.
        return min(context, max(MIN_CONTEXT_TOKENS, int(Decimal(f"{self.keep_rate:.6f}") * context)))


class Extraction:
    """The extraction of one batch, while it runs through the layers.

    Args:
        config: Blocks and keep rate.
        context: [L] booleans for each sequence, True for context tokens.
        instruction: [L] booleans for each sequence, True for instruction tokens.

    Attributes:
        kept: Remaining positions of each sequence, ascending.
        context_tokens: For each sequence, the number of context tokens in each block so far.
    """

    def __init__(self, config: ExtractionConfig, context: Sequence[Tensor], instruction: Sequence[Tensor]) -> None:
        self.config = config
        self._context, self._instruction = list(context), list(instruction)
        self.kept = [torch.arange(len(mask_L), device=mask_L.device) for mask_L in context]
        self.context_tokens = [[int(mask_L.sum())] for mask_L in context]
        self._next: list[Tensor] = []

    @torch.no_grad()
    def observe(self, q_BHLD: Tensor, k_BKLD: Tensor) -> None:
        """Decides what to keep from queries and keys of a block's last layer, after rotary embedding."""
        self._next = []
        for row, (context_L, instruction_L) in enumerate(zip(self._context, self._instruction, strict=True)):
            length = len(context_L)
            if self.config.kept(int(context_L.sum())) < int(context_L.sum()) and instruction_L.any():
                q_HQD = q_BHLD[row, :, :length][:, instruction_L]
                scores = context_scores(q_HQD, k_BKLD[row, :, :length], context_L)
                self._next.append(kept_positions(scores, context_L, self.config.keep_rate))
            else:
                self._next.append(torch.arange(length, device=context_L.device))

    def drop(self, x_BLE: Tensor) -> Tensor:
        """[B, L, E] of the block's positions -> [B, L', E] of those that are kept, padded again."""
        if len(self._next) == 1:
            return x_BLE[:, self._next[0]]
        return pad_sequence([x_LE[kept] for x_LE, kept in zip(x_BLE, self._next, strict=True)], batch_first=True)

    def advance(self) -> list[int]:
        """Moves on to the next block. Returns the lengths of its sequences."""
        for row, kept in enumerate(self._next):
            self.kept[row] = self.kept[row][kept]
            self._context[row], self._instruction[row] = self._context[row][kept], self._instruction[row][kept]
            self.context_tokens[row].append(int(self._context[row].sum()))
        return [len(kept) for kept in self._next]


def context_scores(q_HQD: Tensor, k_KLD: Tensor, context_L: Tensor) -> Tensor:
    """Attention paid to each context token, averaged over instruction tokens and heads.

    As in the reference implementation, the softmax runs over all positions, without a causal mask. The
    queries are processed in chunks, so that the full attention matrix never exists.

    Args:
        q_HQD: [H, Q, D] queries of the instruction tokens, after rotary embedding; at least one.
        k_KLD: [K, L, D] keys after rotary embedding.
        context_L: [L] booleans, True for context tokens.

    Returns:
        [context tokens] float32 scores, in the order of their positions.
    """
    scaled_HQD = q_HQD * q_HQD.shape[-1] ** -0.5
    q_KQD = rearrange(scaled_HQD, "(k g) q d -> k (g q) d", k=len(k_KLD))
    total_L = k_KLD.new_zeros(len(context_L), dtype=torch.float32)
    for q_QD, keys_LD in zip(q_KQD, k_KLD, strict=True):
        for chunk_QD in q_QD.split(max(_MAX_WEIGHTS // len(context_L), 1)):
            total_L += (chunk_QD @ keys_LD.T).softmax(-1, dtype=torch.float32).sum(0)
    scores: Tensor = total_L[context_L] / (q_HQD.shape[0] * q_HQD.shape[1])
    return scores


def kept_positions(scores: Tensor, context_L: Tensor, keep_rate: float) -> Tensor:
    """Positions to keep: everything but context, and the context tokens with the highest scores.

    Args:
        scores: [context tokens] floats, in the order of their positions.
        context_L: [L] booleans, True for context tokens.
        keep_rate: Share of the context tokens to keep; at least `MIN_CONTEXT_TOKENS` of them are.

    Returns:
        [kept] int64 positions, ascending.
    """
    context_positions = context_L.nonzero()[:, 0]
    top = scores.topk(ExtractionConfig(2, keep_rate).kept(len(context_positions))).indices
    kept_L = ~context_L
    kept_L[context_positions[top]] = True
    return kept_L.nonzero()[:, 0]
