"""Speech projector: Whisper frames to language-model tokens (Lyra, section 3.2).

Shapes: B batch, T encoder frames, N speech tokens (T // group), D encoder width, C context width, E language-model
width, V word pieces.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

_DROPOUT = 0.1
_INITIAL_SCALE = 30.0  # of cosines; learned from there


class SpeechProjector(nn.Module):
    """Stacks `group` neighbouring frames and maps them to one speech token.

    Frames that do not fill a group are dropped, as in the published checkpoints, which have no context layers. A small
    speech encoder leaves more to do: there, a few convolutions over the stacked frames, each spanning `kernel` groups,
    assemble phones into words before the method's two linear layers (docs/nano.md has the experiments).

    With `pieces`, a token is the mean of the embeddings of that many word pieces, weighted by the probability of each:
    where the projector is certain, the language model reads what it would read in writing. A head detects groups
    without speech; they make no token, nor does a group that repeats the piece of the one before it, so that speech
    takes about as many tokens as its text. `merges` defines the pieces: those that the language model's tokenizer makes
    with only its first `merges` merges, all of them where it is None. A small data set has too few examples of a rare
    word for a token of its own; its pieces are common.
    """

    @dataclass(kw_only=True, frozen=True, slots=True)
    class Config:
        encoder_width: int
        model_width: int
        group: int = 5
        hidden_width: int = 2048
        context_layers: int = 0
        context_width: int = 512
        kernel: int = 7
        merges: int | None = None
        pieces: int | None = None

        def build(self) -> "SpeechProjector":
            assert self.context_layers or self.pieces is None, "detecting pauses takes context layers"
            return SpeechProjector(self)

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.group = config.group
        joined = config.encoder_width * config.group
        self.context = nn.ModuleList()
        if config.context_layers:
            self.join = nn.Linear(joined, config.context_width)
            joined = config.context_width
            layers = (ContextLayer(config.context_width, config.kernel) for _ in range(config.context_layers))
            self.context.extend(layers)
        self.pause = None if config.pieces is None else nn.Linear(joined, 1)
        self.linear1 = nn.Linear(joined, config.hidden_width)
        self.linear2 = nn.Linear(config.hidden_width, config.model_width)
        self.pieces_VE: Tensor | None
        pieces = None if config.pieces is None else torch.zeros(config.pieces, config.model_width)
        self.register_buffer("pieces_VE", pieces)
        self.log_scale = None if pieces is None else nn.Parameter(torch.tensor(math.log(_INITIAL_SCALE)))

    def forward(self, frames_BTD: Tensor, lengths: Sequence[int] | None = None) -> Tensor:
        """[B, T, D] floats -> [B, N, E], one token a group.

        Args:
            frames_BTD: Rows may be padded on the right.
            lengths: Valid frames of each row; tokens of the padding are meaningless.
        """
        return self.tokens_and_pauses(frames_BTD, lengths)[0]

    def tokens_and_pauses(
        self, frames_BTD: Tensor, lengths: Sequence[int] | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """`forward`, and with `pieces` the log-odds [B, N] that a group adds nothing to the one before it."""
        if self.pieces_VE is None:
            tokens_BNE: Tensor = self.linear2(F.relu(self.linear1(self._in_context(frames_BTD, lengths))))
            return tokens_BNE, None
        said_BNV, pauses_BN = self.piece_log_probs(frames_BTD, lengths)
        pauses_BN = pauses_BN.masked_fill(_repeated(said_BNV.argmax(-1), pauses_BN), torch.inf)
        return said_BNV.exp() @ self.pieces_VE, pauses_BN

    def piece_log_probs(self, frames_BTD: Tensor, lengths: Sequence[int] | None = None) -> tuple[Tensor, Tensor]:
        """With `pieces`: log-probabilities [B, N, V] of the pieces in each group, and log-odds [B, N] that it has none.

        The logit of a piece is the cosine with its embedding times a learned scale.
        """
        assert self.pieces_VE is not None
        assert self.pause is not None
        assert self.log_scale is not None
        groups = self._in_context(frames_BTD, lengths)
        x_BNE = F.normalize(self.linear2(F.relu(self.linear1(groups))), dim=-1)
        cosines_BNV = x_BNE @ F.normalize(self.pieces_VE, dim=-1).T
        return (cosines_BNV * self.log_scale.exp()).log_softmax(-1), self.pause(groups).squeeze(-1)

    def _in_context(self, frames_BTD: Tensor, lengths: Sequence[int] | None) -> Tensor:
        """[B, T, D] -> groups [B, N, C] after the context layers; without any, the stacked frames."""
        whole = frames_BTD.shape[1] // self.group * self.group
        groups = rearrange(frames_BTD[:, :whole], "b (n g) d -> b n (g d)", g=self.group)
        if self.context:
            tokens = torch.tensor([length // self.group for length in lengths or [whole] * len(groups)])
            own_BN1 = (torch.arange(groups.shape[1]) < tokens[:, None])[..., None].to(groups.device)
            groups = self.join(groups)
            for layer in self.context:
                groups = layer(groups, own_BN1)
        return groups

    def read(self, frames_TD: Tensor) -> Tensor:
        """Frames [T, D] of one clip -> its speech tokens [N, E] without pauses; N is at least 1."""
        tokens_1NE, pauses_1N = self.tokens_and_pauses(frames_TD[None])
        if pauses_1N is None:
            return tokens_1NE[0]
        return tokens_1NE[0, token_mask(pauses_1N, torch.ones_like(pauses_1N, dtype=torch.bool))[0]]

    def freeze_pause_head(self) -> None:
        """With `pieces`, freezes what detects pauses: only the two linear layers and the scale stay trainable."""
        if self.pause is not None:
            for part in (self.join, self.context, self.pause):
                part.requires_grad_(False)


def _repeated(best_BN: Tensor, pauses_BN: Tensor) -> Tensor:
    """[B, N] true where a group repeats the piece of the group before it, as CTC collapses a path."""
    same_BN = (best_BN[:, 1:] == best_BN[:, :-1]) & (pauses_BN[:, :-1] < 0)
    return F.pad(same_BN, (1, 0))


def token_mask(pauses_BN: Tensor, own_BN: Tensor) -> Tensor:
    """[B, N] true where a group makes a speech token: it is probably no pause, or the least likely pause of its row.

    Args:
        pauses_BN: Log-odds that a group is a pause.
        own_BN: False for padding.
    """
    best_B = pauses_BN.masked_fill(~own_BN, torch.inf).argmin(-1)
    best_BN = F.one_hot(best_B, pauses_BN.shape[1]).bool()
    return own_BN & ((pauses_BN < 0) | best_BN)


class ContextLayer(nn.Module):
    """A depthwise convolution and a feed-forward layer around a residual stream: a one-dimensional ConvNeXt block."""

    def __init__(self, width: int, kernel: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.mix = nn.Conv1d(width, width, kernel, padding=kernel // 2, groups=width)
        self.expand = nn.Linear(width, 2 * width)
        self.reduce = nn.Linear(2 * width, width)
        nn.init.zeros_(self.reduce.weight)
        nn.init.zeros_(self.reduce.bias)

    def forward(self, x_BNC: Tensor, own_BN1: Tensor) -> Tensor:
        """[B, N, C] -> [B, N, C]; padding reads as zeros, like what lies beyond the end."""
        normed_BCN = (self.norm(x_BNC) * own_BN1).transpose(1, 2)
        mixed_BNC = self.mix(normed_BCN).transpose(1, 2)
        update: Tensor = self.reduce(F.gelu(self.expand(mixed_BNC)))
        return x_BNC + F.dropout(update, _DROPOUT, self.training)
