"""A LLaMA-shaped decoder: RMS norm, rotary positions, grouped-query attention, gated feed-forward, switchable LoRA.

Names are those of transformers' `LlamaForCausalLM`, below `model.`.

Shapes: B batch, L positions of this call, P positions in the cache before it, E width, H heads, K key-value heads,
D head width, V vocabulary.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from model_core.language.lora import AdaptedLinear, LoraConfig


@dataclass(slots=True)
class KeyValueCache:
    """Keys and values of sequences of one length, in buffers that double when full; `length` positions are valid."""

    keys: list[Tensor]
    values: list[Tensor]
    length: int = 0

    def append(self, layer: int, k_BKLD: Tensor, v_BKLD: Tensor) -> tuple[Tensor, Tensor]:
        """Writes a layer's keys and values behind the valid positions; returns views of all, [B, K, P + L, D]."""
        end = self.length + k_BKLD.shape[2]
        for buffers, new in ((self.keys, k_BKLD), (self.values, v_BKLD)):
            if end > buffers[layer].shape[2]:
                room = max(end, 2 * buffers[layer].shape[2]) - self.length
                buffers[layer] = F.pad(buffers[layer][:, :, : self.length], (0, 0, 0, room))
            buffers[layer][:, :, self.length : end] = new
        return self.keys[layer][:, :, :end], self.values[layer][:, :, :end]


class Decoder(nn.Module):
    """Embedding table, layers and final norm; the embedding table is the output layer too."""

    @dataclass(kw_only=True, frozen=True, slots=True)
    class Config:
        vocabulary: int
        width: int
        layers: int
        heads: int
        key_value_heads: int
        feed_forward: int
        context: int
        rope_base: float = 100_000.0
        norm_epsilon: float = 1e-5

        @property
        def head_width(self) -> int:
            return self.width // self.heads

        def build(self) -> "Decoder":
            return Decoder(self)

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.embed_tokens = nn.Embedding(config.vocabulary, config.width)
        self.layers = nn.ModuleList(DecoderLayer(config, index) for index in range(config.layers))
        self.norm = nn.RMSNorm(config.width, config.norm_epsilon)

    def add_adapter(self, name: str, config: LoraConfig, projections: tuple[str, ...]) -> None:
        """Adds an adapter that changes nothing yet to the named projections of every layer."""
        for path, module in self.named_modules():
            if isinstance(module, AdaptedLinear) and path.rsplit(".", 1)[-1] in projections:
                module.add_adapter(name, config)

    def new_cache(self, positions: int = 64, batch: int = 1) -> KeyValueCache:
        """An empty cache for sequences of one length, with room for `positions`."""
        shape = (batch, self.config.key_value_heads, positions, self.config.head_width)
        new = [torch.zeros(shape, dtype=self.embed_tokens.weight.dtype) for _ in range(2 * self.config.layers)]
        return KeyValueCache(new[: self.config.layers], new[self.config.layers :])

    def forward(self, embeds_BLE: Tensor, cache: KeyValueCache | None = None, adapter: str | None = None) -> Tensor:
        """Runs positions through the layers; each attends to itself, those before it and the cache.

        Args:
            embeds_BLE: Token embeddings, or speech and vision tokens.
            cache: Positions before these; these are added to it. None for a whole sequence in one call.
            adapter: LoRA adapter that is on.

        Returns:
            Hidden states after the final norm, [B, L, E].
        """
        before, length = (cache.length if cache else 0), embeds_BLE.shape[1]
        rotary = self._rotary(before, length, embeds_BLE.dtype)
        mask = causal_mask(before, length) if before and length > 1 else None
        hidden_BLE = embeds_BLE
        for layer in self.layers:
            hidden_BLE = layer(hidden_BLE, rotary, mask, cache, adapter)
        if cache:
            cache.length += length
        normed_BLE: Tensor = self.norm(hidden_BLE)
        return normed_BLE

    def logits(self, hidden: Tensor) -> Tensor:
        """[..., E] -> [..., V]"""
        return F.linear(hidden, self.embed_tokens.weight)

    def _rotary(self, before: int, length: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Cosines and sines of the rotary angles, each [L, D]."""
        width = self.config.head_width
        frequencies = self.config.rope_base ** (-torch.arange(0, width, 2, dtype=torch.float32) / width)
        angles = torch.arange(before, before + length, dtype=torch.float32)[:, None] * frequencies
        angles = torch.cat((angles, angles), dim=-1)
        return angles.cos().to(dtype), angles.sin().to(dtype)


class DecoderLayer(nn.Module):
    def __init__(self, config: Decoder.Config, index: int) -> None:
        super().__init__()
        self.input_layernorm = nn.RMSNorm(config.width, config.norm_epsilon)
        self.self_attn = DecoderAttention(config, index)
        self.post_attention_layernorm = nn.RMSNorm(config.width, config.norm_epsilon)
        self.mlp = GatedFeedForward(config)

    def forward(
        self,
        hidden_BLE: Tensor,
        rotary: tuple[Tensor, Tensor],
        mask: Tensor | None,
        cache: KeyValueCache | None,
        adapter: str | None,
    ) -> Tensor:
        hidden_BLE = hidden_BLE + self.self_attn(self.input_layernorm(hidden_BLE), rotary, mask, cache, adapter)
        fed_BLE: Tensor = self.mlp(self.post_attention_layernorm(hidden_BLE), adapter)
        return hidden_BLE + fed_BLE


class DecoderAttention(nn.Module):
    def __init__(self, config: Decoder.Config, index: int) -> None:
        super().__init__()
        self.index = index
        self.head_width = config.head_width
        self.groups = config.heads // config.key_value_heads
        kv_width = config.key_value_heads * config.head_width
        self.q_proj = AdaptedLinear(config.width, config.width, bias=False)
        self.k_proj = AdaptedLinear(config.width, kv_width, bias=False)
        self.v_proj = AdaptedLinear(config.width, kv_width, bias=False)
        self.o_proj = AdaptedLinear(config.width, config.width, bias=False)

    def forward(
        self,
        hidden_BLE: Tensor,
        rotary: tuple[Tensor, Tensor],
        mask: Tensor | None,
        cache: KeyValueCache | None,
        adapter: str | None,
    ) -> Tensor:
        q, k, v = (
            rearrange(projection(hidden_BLE, adapter), "b l (h d) -> b h l d", d=self.head_width)
            for projection in (self.q_proj, self.k_proj, self.v_proj)
        )
        q, k = rotate(q, rotary), rotate(k, rotary)
        if cache:
            k, v = cache.append(self.index, k, v)
        causal = mask is None and q.shape[2] > 1
        attended = F.scaled_dot_product_attention(
            q,
            k.repeat_interleave(self.groups, 1),
            v.repeat_interleave(self.groups, 1),
            attn_mask=mask,
            is_causal=causal,
        )
        mixed: Tensor = self.o_proj(rearrange(attended, "b h l d -> b l (h d)"), adapter)
        return mixed


class GatedFeedForward(nn.Module):
    def __init__(self, config: Decoder.Config) -> None:
        super().__init__()
        self.gate_proj = AdaptedLinear(config.width, config.feed_forward, bias=False)
        self.up_proj = AdaptedLinear(config.width, config.feed_forward, bias=False)
        self.down_proj = AdaptedLinear(config.feed_forward, config.width, bias=False)

    def forward(self, hidden_BLE: Tensor, adapter: str | None) -> Tensor:
        gated = F.silu(self.gate_proj(hidden_BLE, adapter)) * self.up_proj(hidden_BLE, adapter)
        fed: Tensor = self.down_proj(gated, adapter)
        return fed


def rotate(x_BHLD: Tensor, rotary: tuple[Tensor, Tensor]) -> Tensor:
    """Rotary position embedding over halves (Su et al. 2021, in the layout of the LLaMA checkpoints)."""
    cos, sin = rotary
    first, second = x_BHLD.chunk(2, dim=-1)
    return x_BHLD * cos + torch.cat((-second, first), dim=-1) * sin


def causal_mask(before: int, length: int) -> Tensor:
    """[L, P + L] booleans: True where a position may attend."""
    return torch.ones(length, before + length, dtype=torch.bool).tril(before)
