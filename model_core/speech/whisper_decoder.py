"""Whisper's text decoder with a key-value cache (Radford et al. 2022); names as in transformers' `WhisperDecoder`.

Shapes: B rows, L new tokens, P tokens so far, T encoder frames, D width, H heads, V vocabulary.
"""

from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from model_core.speech.whisper import CastLinear

_ROOM = 64  # tokens


@dataclass(slots=True)
class DecoderState:
    """Key-value caches of a batch: one (keys, values) pair a layer, [B, H, positions, D / H].

    Attributes:
        cross: Of the encoder's frames; never changes.
        past: Of the tokens so far, with spare room; a step writes its own in place.
        mask: [B, 1, 1, T], true where a row has a frame; None where all rows are equally long.
        tokens: Tokens in each row.
    """

    cross: list[tuple[Tensor, Tensor]]
    past: list[tuple[Tensor, Tensor]]
    mask: Tensor | None
    tokens: int = 0

    def select(self, rows: list[int]) -> "DecoderState":
        """The state of the given rows, in their order."""
        index = torch.tensor(rows, device=self.cross[0][0].device)
        return DecoderState(
            cross=[(keys[index], values[index]) for keys, values in self.cross],
            past=[(keys[index], values[index]) for keys, values in self.past],
            mask=None if self.mask is None else self.mask[index],
            tokens=self.tokens,
        )

    def make_room(self, tokens: int) -> None:
        """Grows `past` to hold at least this many tokens, by many at a time."""
        room = self.past[0][0].shape[2]
        if tokens > room:
            more = (0, 0, 0, max(_ROOM, tokens - room))
            self.past = [(F.pad(keys, more), F.pad(values, more)) for keys, values in self.past]


class WhisperDecoder(nn.Module):
    """Pre-norm transformer layers with causal self-attention and cross-attention to the encoder's frames."""

    @dataclass(kw_only=True, frozen=True, slots=True)
    class Config:
        vocabulary: int
        width: int
        layers: int
        heads: int
        feed_forward: int
        max_tokens: int = 448

        def build(self) -> "WhisperDecoder":
            return WhisperDecoder(self)

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.embed_tokens = nn.Embedding(config.vocabulary, config.width)
        self.embed_positions = nn.Embedding(config.max_tokens, config.width)
        self.layers = nn.ModuleList(DecoderLayer(config) for _ in range(config.layers))
        self.layer_norm = nn.LayerNorm(config.width)

    def set_compute_dtype(self, dtype: torch.dtype) -> None:
        """Casts linear layers, token embeddings, keys and values to `dtype`; residual stream and norms stay."""
        self.embed_tokens.to(dtype)
        for module in self.modules():
            if isinstance(module, CastLinear):
                module.to(dtype)

    def new_state(self, frames: list[Tensor]) -> DecoderState:
        """Starts one row per clip; `frames` are [T, D] each, of any length above zero."""
        lengths = torch.tensor([clip.shape[0] for clip in frames], device=frames[0].device)
        frames_BTD = nn.utils.rnn.pad_sequence(frames, batch_first=True).to(self.embed_tokens.weight.dtype)
        valid_BT = torch.arange(frames_BTD.shape[1], device=lengths.device) < lengths[:, None]
        cross = [layer.cross_keys_values(frames_BTD) for layer in self._stack()]
        rows, heads, _, head_width = cross[0][0].shape
        room = cross[0][0].new_zeros(rows, heads, _ROOM, head_width)
        past = [(room.clone(), room.clone()) for _ in cross]
        return DecoderState(cross, past, None if bool(valid_BT.all()) else valid_BT[:, None, None])

    def forward(self, tokens_BL: Tensor, state: DecoderState) -> Tensor:
        """Adds new tokens to the state: [B, L] int64 -> logits of the token after the last, [B, V]."""
        start, length = state.tokens, tokens_BL.shape[1]
        state.make_room(start + length)
        hidden_BLD = self.embed_tokens(tokens_BL) + self.embed_positions.weight[start : start + length]
        causal = None
        if length > 1:
            causal = torch.ones(length, start + length, dtype=torch.bool, device=hidden_BLD.device).tril(start)
        for index, layer in enumerate(self._stack()):
            hidden_BLD = layer(hidden_BLD, state.past[index], start, causal, state.cross[index], state.mask)
        state.tokens += length
        last_BD = self.layer_norm(hidden_BLD[:, -1])
        return F.linear(last_BD.to(self.embed_tokens.weight.dtype), self.embed_tokens.weight)

    def _stack(self) -> list["DecoderLayer"]:
        return cast(list[DecoderLayer], list(self.layers))


class DecoderLayer(nn.Module):
    def __init__(self, config: WhisperDecoder.Config) -> None:
        super().__init__()
        self.self_attn = DecoderAttention(config.width, config.heads)
        self.self_attn_layer_norm = nn.LayerNorm(config.width)
        self.encoder_attn = DecoderAttention(config.width, config.heads)
        self.encoder_attn_layer_norm = nn.LayerNorm(config.width)
        self.fc1 = CastLinear(config.width, config.feed_forward)
        self.fc2 = CastLinear(config.feed_forward, config.width)
        self.final_layer_norm = nn.LayerNorm(config.width)

    def cross_keys_values(self, frames_BTD: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values of the encoder's frames, contiguous for many steps."""
        keys, values = self.encoder_attn.keys_values(frames_BTD)
        return keys.contiguous(), values.contiguous()

    def forward(
        self,
        hidden_BLD: Tensor,
        past: tuple[Tensor, Tensor],
        start: int,
        causal: Tensor | None,
        cross: tuple[Tensor, Tensor],
        mask: Tensor | None,
    ) -> Tensor:
        """The layer's output; writes keys and values of the new tokens into `past` from position `start` on."""
        end = start + hidden_BLD.shape[1]
        normed_BLD = self.self_attn_layer_norm(hidden_BLD)
        for kept, made in zip(past, self.self_attn.keys_values(normed_BLD), strict=True):
            kept[:, :, start:end] = made
        keys, values = (kept[:, :, :end] for kept in past)
        hidden_BLD = hidden_BLD + self.self_attn(normed_BLD, keys, values, causal)
        hidden_BLD = hidden_BLD + self.encoder_attn(self.encoder_attn_layer_norm(hidden_BLD), *cross, mask)
        expanded = F.gelu(self.fc1(self.final_layer_norm(hidden_BLD)))
        fed_BLD: Tensor = self.fc2(expanded)
        return hidden_BLD + fed_BLD


class DecoderAttention(nn.Module):
    """Multi-head attention whose keys and values are computed separately, so that they can be cached."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q_proj = CastLinear(width, width)
        self.k_proj = CastLinear(width, width, bias=False)
        self.v_proj = CastLinear(width, width)
        self.out_proj = CastLinear(width, width)

    def keys_values(self, source_BTD: Tensor) -> tuple[Tensor, Tensor]:
        """[B, T, D] -> two of [B, H, T, D / H]."""
        return self._split(self.k_proj(source_BTD)), self._split(self.v_proj(source_BTD))

    def forward(self, hidden_BLD: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None) -> Tensor:
        query = self._split(self.q_proj(hidden_BLD))
        # Explicit: for the few rows of a step this takes a quarter of the time of torch's fused attention.
        scores_BHLT = (query * query.shape[-1] ** -0.5) @ keys.transpose(2, 3)
        if mask is not None:
            scores_BHLT = scores_BHLT.masked_fill(~mask, float("-inf"))
        attended = scores_BHLT.softmax(-1) @ values
        mixed: Tensor = self.out_proj(rearrange(attended, "b h l d -> b l (h d)"))
        return mixed

    def _split(self, x_BTD: Tensor) -> Tensor:
        return rearrange(x_BTD, "b t (h d) -> b h t d", h=self.heads)
