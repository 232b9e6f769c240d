"""The latent multi-modality extractor (Lyra, section 3.4): context tokens that the instruction ignores are dropped.

The layers are cut into blocks. After each block but the last, context tokens (speech and vision) are ranked by the
attention that instruction tokens pay them in the block's last layer, and the top share goes on; all other positions
always do. Each sequence of a padded batch is extracted by itself.

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

LEAST_CONTEXT = 32
# Attention weights that are held at a time while scoring.
_WEIGHTS_AT_ONCE = 1 << 20


@dataclass(frozen=True, slots=True)
class ExtractionConfig:
    """Blocks that the layers are cut into, and the share of context tokens kept after each but the last."""

    blocks: int = 1
    keep_rate: float = 1.0

    @property
    def drops(self) -> bool:
        return self.blocks > 1 and self.keep_rate < 1

    def check(self, layers: int) -> None:
        """Raises InvalidInput for `blocks` or `keep_rate` out of bounds."""
        if not 1 <= self.blocks <= layers:
            raise InvalidInput("blocks", f"{self.blocks} is not from 1 to the model's {layers} layers")
        if not 0 < self.keep_rate <= 1:
            raise InvalidInput("keep_rate", f"{self.keep_rate:g} is not over 0 and at most 1")

    def block_ends(self, layers: int) -> list[int]:
        """Index of the last layer of every block but the last."""
        return [(block + 1) * layers // self.blocks - 1 for block in range(self.blocks - 1)]

    def kept(self, context: int) -> int:
        """How many of `context` tokens go on to the next block."""
        # The rate is meant as it is written: in binary 0.7 * 350 is less than 245.
        return min(context, max(LEAST_CONTEXT, int(Decimal(f"{self.keep_rate:.6f}") * context)))


class Extraction:
    """The extraction of one batch.

    Args:
        config: Blocks and keep rate.
        context: Which positions of each sequence are context tokens, [L] booleans each.
        instruction: Which are instruction tokens.

    Attributes:
        kept: Positions of each sequence that are left, in order.
        context_tokens: Context tokens of each sequence that each block saw so far.
    """

    def __init__(self, config: ExtractionConfig, context: Sequence[Tensor], instruction: Sequence[Tensor]) -> None:
        self.config = config
        self._context, self._instruction = list(context), list(instruction)
        self.kept = [torch.arange(len(mask_L), device=mask_L.device) for mask_L in context]
        self.context_tokens = [[int(mask_L.sum())] for mask_L in context]
        self._next: list[Tensor] = []

    @torch.no_grad()
    def observe(self, q_BHLD: Tensor, k_BKLD: Tensor) -> None:
        """Takes queries and keys of a block's last layer, after rotary embedding, and decides what is kept."""
        self._next = []
        for row, (context_L, instruction_L) in enumerate(zip(self._context, self._instruction, strict=True)):
            length = len(context_L)
            if self.config.kept(int(context_L.sum())) < int(context_L.sum()) and instruction_L.any():
                scores = context_scores(q_BHLD[row, :, :length], k_BKLD[row, :, :length], context_L, instruction_L)
                self._next.append(kept_positions(scores, context_L, self.config.keep_rate))
            else:
                self._next.append(torch.arange(length, device=context_L.device))

    def drop(self, x_BLE: Tensor) -> Tensor:
        """[B, L, E] of the block's positions -> [B, L', E] of those that are kept, padded anew."""
        if len(self._next) == 1:
            return x_BLE[:, self._next[0]]
        return pad_sequence([x_LE[kept] for x_LE, kept in zip(x_BLE, self._next, strict=True)], batch_first=True)

    def advance(self) -> list[int]:
        """Goes on to the next block. Returns the lengths that its sequences have."""
        for row, kept in enumerate(self._next):
            self.kept[row] = self.kept[row][kept]
            self._context[row], self._instruction[row] = self._context[row][kept], self._instruction[row][kept]
            self.context_tokens[row].append(int(self._context[row].sum()))
        return [len(kept) for kept in self._next]


def context_scores(q_HLD: Tensor, k_KLD: Tensor, context_L: Tensor, instruction_L: Tensor) -> Tensor:
    """Attention that each context token gets, averaged over instruction tokens and heads.

    As in the reference the softmax runs over all positions, without a causal mask. Queries are taken some at a time, so
    that the work is that of the instruction tokens alone and the full attention matrix never exists.

    Returns:
        [context tokens] float32.
    """
    scaled_HQD = q_HLD[:, instruction_L] * q_HLD.shape[-1] ** -0.5
    q_KQD = rearrange(scaled_HQD, "(k g) q d -> k (g q) d", k=len(k_KLD))
    total_L = k_KLD.new_zeros(len(context_L), dtype=torch.float32)
    for q_QD, keys_LD in zip(q_KQD, k_KLD, strict=True):
        for some_QD in q_QD.split(max(_WEIGHTS_AT_ONCE // len(context_L), 1)):
            total_L += (some_QD @ keys_LD.T).softmax(-1, dtype=torch.float32).sum(0)
    scores: Tensor = total_L[context_L] / (len(q_HLD) * int(instruction_L.sum()))
    return scores


def kept_positions(scores: Tensor, context_L: Tensor, keep_rate: float) -> Tensor:
    """Positions that survive, in order: all that are no context, and the context tokens with the highest scores.

    Args:
        scores: Of the context tokens, in their order.
        context_L: [L] booleans.
        keep_rate: Share of the context tokens that is kept; at least `LEAST_CONTEXT` of them are.
    """
    places = context_L.nonzero()[:, 0]
    top = scores.topk(ExtractionConfig(2, keep_rate).kept(len(places))).indices
    kept_L = ~context_L
    kept_L[places[top]] = True
    return kept_L.nonzero()[:, 0]
