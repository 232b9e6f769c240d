"""Speech projector: Whisper frames to language-model tokens (Lyra, section 3.2).

Shapes: B batch, T encoder frames, N speech tokens (T // group), D encoder width, C context width, E language-model
width, V pieces of words.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

_DROPOUT = 0.1
_FIRST_SCALE = 30.0  # of cosines, before it is learned


class SpeechProjector(nn.Module):
    """Joins `group` neighbouring frames and maps them to one speech token.

    Frames that do not fill a group are dropped, as in the published checkpoints. Those have no context layers. A small
    speech encoder leaves more to do: there a few convolutions over the joined frames, each over `kernel` tokens to be,
    put sounds together to words before the method's two linear layers (docs/nano.md has the trials).

    With `pieces`, a token is the mean of the embeddings of so many pieces of words by how likely each is said: where
    the projector is sure, the language model reads what it would read in writing. A head tells groups in which none
    is said; they make no token, nor does a group that says what the one before it says, so that speech takes the
    language model about as many tokens as its words do. `merges` says what the pieces are: those that the language
    model's tokenizer makes with the first so many of its merges, all of them where it is None. A small recording set
    has too few examples of a rare word for a token of its own; its pieces are common.
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
            assert self.context_layers or self.pieces is None, "one group alone does not tell pauses"
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
        self.log_scale = None if pieces is None else nn.Parameter(torch.tensor(math.log(_FIRST_SCALE)))

    def forward(self, frames_BTD: Tensor, lengths: Sequence[int] | None = None) -> Tensor:
        """[B, T, D] floats -> [B, N, E], of every group.

        Args:
            frames_BTD: Rows may be padded on the right.
            lengths: Frames of each row that are its own; what comes of the others means nothing.
        """
        return self.spot(frames_BTD, lengths)[0]

    def spot(self, frames_BTD: Tensor, lengths: Sequence[int] | None = None) -> tuple[Tensor, Tensor | None]:
        """`forward`, and with `pieces` the log-odds [B, N] that a group says nothing that the one before it did not."""
        if self.pieces_VE is None:
            tokens_BNE: Tensor = self.linear2(F.relu(self.linear1(self._in_context(frames_BTD, lengths))))
            return tokens_BNE, None
        said_BNV, pauses_BN = self.spell(frames_BTD, lengths)
        pauses_BN = pauses_BN.masked_fill(_repeated(said_BNV.argmax(-1), pauses_BN), torch.inf)
        return said_BNV.exp() @ self.pieces_VE, pauses_BN

    def spell(self, frames_BTD: Tensor, lengths: Sequence[int] | None = None) -> tuple[Tensor, Tensor]:
        """With `pieces`, what is said in each group: log-probabilities [B, N, V] of the pieces, by the cosine with each
        one's embedding times a scale that is learned, and log-odds [B, N] that it is none."""
        assert self.pieces_VE is not None
        assert self.pause is not None
        assert self.log_scale is not None
        groups = self._in_context(frames_BTD, lengths)
        x_BNE = F.normalize(self.linear2(F.relu(self.linear1(groups))), dim=-1)
        cosines_BNV = x_BNE @ F.normalize(self.pieces_VE, dim=-1).T
        return (cosines_BNV * self.log_scale.exp()).log_softmax(-1), self.pause(groups).squeeze(-1)

    def _in_context(self, frames_BTD: Tensor, lengths: Sequence[int] | None) -> Tensor:
        """[B, T, D] -> groups [B, N, C], each with its neighbours put in; without context layers, as they are."""
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
        """One recording's frames [T, D] -> its speech tokens [N, E], pauses left out; N is at least 1."""
        tokens_1NE, pauses_1N = self.spot(frames_TD[None])
        if pauses_1N is None:
            return tokens_1NE[0]
        return tokens_1NE[0, spoken(pauses_1N, torch.ones_like(pauses_1N, dtype=torch.bool))[0]]

    def freeze_spotting(self) -> None:
        """With `pieces`, what tells pauses learns no more: only the two linear layers and the scale do."""
        if self.pause is not None:
            for part in (self.join, self.context, self.pause):
                part.requires_grad_(False)


def _repeated(best_BN: Tensor, pauses_BN: Tensor) -> Tensor:
    """[B, N] true where a group goes on with the piece of the group before it, as CTC reads a path."""
    same_BN = (best_BN[:, 1:] == best_BN[:, :-1]) & (pauses_BN[:, :-1] < 0)
    return F.pad(same_BN, (1, 0))


def spoken(pauses_BN: Tensor, own_BN: Tensor) -> Tensor:
    """[B, N] true where a row's own group makes a speech token: it is likelier no pause, or the row's likeliest one."""
    best_B = pauses_BN.masked_fill(~own_BN, torch.inf).argmin(-1)
    best_BN = F.one_hot(best_B, pauses_BN.shape[1]).bool()
    return own_BN & ((pauses_BN < 0) | best_BN)


class ContextLayer(nn.Module):
    """A depthwise convolution and a feed-forward layer beside a residual stream: ConvNeXt's block in one dimension."""

    def __init__(self, width: int, kernel: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.mix = nn.Conv1d(width, width, kernel, padding=kernel // 2, groups=width)
        self.expand = nn.Linear(width, 2 * width)
        self.reduce = nn.Linear(2 * width, width)
        nn.init.zeros_(self.reduce.weight)
        nn.init.zeros_(self.reduce.bias)

    def forward(self, x_BNC: Tensor, own_BN1: Tensor) -> Tensor:
        """[B, N, C] -> [B, N, C]; positions that are no row's own are zeros to the others, as beyond its end."""
        normed_BCN = (self.norm(x_BNC) * own_BN1).transpose(1, 2)
        mixed_BNC = self.mix(normed_BCN).transpose(1, 2)
        update: Tensor = self.reduce(F.gelu(self.expand(mixed_BNC)))
        return x_BNC + F.dropout(update, _DROPOUT, self.training)
