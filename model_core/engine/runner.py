"""The decoder's forward pass over a step: tokens of many sequences side by side, keys and values in pages.

Computes what `model_core.language.decoder` does, with the weights of neighbouring projections joined.

Shapes: N tokens of a step, R rows, H heads, K key-value heads, G heads a key-value head, S positions attended to, D
head width, E width, V vocabulary.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from model_core.engine.batch import ChunkRow, DecodeBucket, Segment, Span, spans
from model_core.engine.packed_weights import FloatWeights, Precision
from model_core.engine.page_pool import PagePool
from model_core.engine.projections import AdapterMix, JoinedProjection, OutputProjection
from model_core.language.decoder import Decoder, DecoderLayer

# Cosines, and sines whose first half is negated, of the rotary angles: [N, 1, D] each.
_Rotary = tuple[Tensor, Tensor]


@dataclass(frozen=True, slots=True)
class SegmentOutput:
    """What the layers made of a segment.

    Attributes:
        hidden: [n, E] hidden states behind its last layer, before the final norm.
        queries: [H, Q, D] queries of its instruction tokens in that layer, where an extraction follows.
    """

    hidden: Tensor
    queries: Tensor | None


class Runner:
    """Runs steps on one device.

    Args:
        decoder: Its projections' weights become views of the joined ones.
        pool: Keys and values.
        precision: Of the projections' weights when few rows are multiplied by them.
        float_weights: What becomes of the decoder's own weights, as in `JoinedProjection`.
    """

    def __init__(
        self,
        decoder: Decoder,
        pool: PagePool,
        precision: Precision = "float",
        float_weights: FloatWeights = "shared",
    ) -> None:
        self.decoder = decoder
        self._pool = pool
        self._layers = [
            _Layer(cast(DecoderLayer, layer), decoder.config, pool, precision, float_weights)
            for layer in decoder.layers
        ]
        self._output = OutputProjection.from_weight(decoder.output_weight, precision, float_weights)

    @property
    def device(self) -> torch.device:
        """Where the decoder is."""
        return self.decoder.embed_tokens.weight.device

    def update_adapters(self) -> None:
        """Follows the decoder's resident adapters."""
        for layer in self._layers:
            layer.update_adapters()

    def forward(self, segments: Sequence[Segment]) -> list[SegmentOutput]:
        """Runs the segments through their layers; their keys and values are in the pool afterwards.

        The page tables must have room for them; their lengths are not changed.
        """
        hidden = [self._input(segment) for segment in segments]
        queries: list[Tensor | None] = [None] * len(segments)
        for span in spans(segments, self.device):
            active = [segments[i] for i in span.active]
            counts = [segment.count for segment in active]
            adapters = AdapterMix.of_runs(
                [(segment.sequence.adapter, segment.count) for segment in active], self.device
            )
            x_NE = torch.cat([hidden[i] for i in span.active])
            rotary = self._rotary(active, x_NE.dtype)
            for layer in range(span.first_layer, span.end_layer):
                x_NE, q_NHD = self._layers[layer].forward(x_NE, rotary, adapters, span)
            for i, rows_NE in zip(span.active, torch.split(x_NE, counts), strict=True):
                hidden[i] = rows_NE
            for chunk in span.chunks:
                if chunk.queries is not None and span.end_layer == segments[chunk.segment].end_layer:
                    queries[chunk.segment] = q_NHD[chunk.tokens][chunk.queries].transpose(0, 1)
        return [SegmentOutput(rows, asked) for rows, asked in zip(hidden, queries, strict=True)]

    def logits(self, last_RE: Tensor) -> tuple[Tensor, Tensor]:
        """[R, E] hidden states behind the last layer -> the same after the final norm, and float32 logits [R, V]."""
        normed_RE = self.decoder.norm(last_RE)
        return normed_RE, self._output(normed_RE)

    def _input(self, segment: Segment) -> Tensor:
        sequence = segment.sequence
        if sequence.block_input is not None:
            return sequence.block_input.hidden[sequence.done : sequence.done + segment.count]
        tokens = [sequence.pending[i] for i in range(segment.count)]
        embeds_NE: Tensor = self.decoder.embed_tokens(torch.tensor(tokens, device=self.device))
        return embeds_NE

    def _rotary(self, segments: Sequence[Segment], dtype: torch.dtype) -> _Rotary:
        positions_3N = torch.cat([_positions(segment) for segment in segments], dim=1)
        cos_1ND, sin_1ND = self.decoder.rotary(positions_3N[:, None], dtype)
        half = sin_1ND.shape[-1] // 2
        signed_1ND = torch.cat((-sin_1ND[..., :half], sin_1ND[..., half:]), dim=-1)
        return cos_1ND[0, :, None], signed_1ND[0, :, None]


class _Layer:
    """One decoder layer with joined projections."""

    def __init__(
        self,
        layer: DecoderLayer,
        config: Decoder.Config,
        pool: PagePool,
        precision: Precision,
        float_weights: FloatWeights,
    ) -> None:
        self._layer = layer
        self._pool = pool
        self._heads, self._kv_heads, self._width = config.heads, config.key_value_heads, config.head_width
        attention, mlp = layer.self_attn, layer.mlp
        self._qkv, self._o, self._gate_up, self._down = (
            JoinedProjection(layers, precision, float_weights)
            for layers in (
                [attention.q_proj, attention.k_proj, attention.v_proj],
                [attention.o_proj],
                [mlp.gate_proj, mlp.up_proj],
                [mlp.down_proj],
            )
        )

    def update_adapters(self) -> None:
        for projection in (self._qkv, self._o, self._gate_up, self._down):
            projection.update_adapters()

    def forward(self, x_NE: Tensor, rotary: _Rotary, adapters: AdapterMix, span: Span) -> tuple[Tensor, Tensor]:
        """[N, E] -> [N, E] and the queries [N, H, D]."""
        heads, kv_heads = self._heads, self._kv_heads
        index = self._layer.self_attn.index - span.first_layer
        qkv_NHD = self._qkv(self._layer.input_layernorm(x_NE), adapters).view(len(x_NE), -1, self._width)
        rotated = qkv_NHD[:, : heads + kv_heads]
        rotated = rotated * rotary[0] + rotated.roll(self._width // 2, -1) * rotary[1]
        q_NHD, k_NKD, v_NKD = rotated[:, :heads], rotated[:, heads:], qkv_NHD[:, heads + kv_heads :]
        self._pool.write(span.slots[index], torch.stack((k_NKD, v_NKD), dim=1))
        attended_NHD = self._attend(index, q_NHD, k_NKD, v_NKD, span)
        x_NE = x_NE + self._o(attended_NHD.reshape(len(x_NE), -1), adapters)
        gated, up = self._gate_up(self._layer.post_attention_layernorm(x_NE), adapters).chunk(2, dim=-1)
        return x_NE + self._down(F.silu(gated) * up, adapters), q_NHD

    def _attend(self, index: int, q_NHD: Tensor, k_NKD: Tensor, v_NKD: Tensor, span: Span) -> Tensor:
        if len(span.buckets) == 1 and not span.chunks:
            return self._decode(index, q_NHD, span.buckets[0])
        attended_NHD = torch.empty_like(q_NHD)
        for bucket in span.buckets:
            attended_NHD[bucket.rows] = self._decode(index, q_NHD[bucket.rows], bucket)
        for chunk in span.chunks:
            attended_NHD[chunk.tokens] = self._read(index, q_NHD, k_NKD, v_NKD, chunk)
        return attended_NHD

    def _decode(self, index: int, q_RHD: Tensor, bucket: DecodeBucket) -> Tensor:
        """Rows of one token: the heads of a key-value head take the place of positions."""
        k, v = self._pool.read(bucket.pages[index], len(q_RHD))
        q_RKGD = rearrange(q_RHD, "r (k g) d -> r k g d", k=self._kv_heads)
        return F.scaled_dot_product_attention(q_RKGD, k, v, attn_mask=bucket.mask).flatten(1, 2)

    def _read(self, index: int, q_NHD: Tensor, k_NKD: Tensor, v_NKD: Tensor, chunk: ChunkRow) -> Tensor:
        """A chunk of a prompt, [n, H, D]."""
        q = q_NHD[chunk.tokens].transpose(0, 1)[None]
        if chunk.pages is None:
            k, v = (x_NKD[chunk.tokens].transpose(0, 1)[None] for x_NKD in (k_NKD, v_NKD))
            attended = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
        else:
            k, v = self._pool.read(chunk.pages[index], 1)
            attended = F.scaled_dot_product_attention(q, k, v, attn_mask=chunk.mask, enable_gqa=True)
        return attended[0].transpose(0, 1)


def _positions(segment: Segment) -> Tensor:
    sequence = segment.sequence
    if sequence.block_input is None:
        return sequence.answer_positions(segment.count)
    return sequence.block_input.positions[:, sequence.done : sequence.done + segment.count]
