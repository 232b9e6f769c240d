"""A decoder of the LLaMA family: RMSNorm, rotary positions, grouped-query attention, gated feed-forward, named LoRA.

One class for SmolLM2, LLaMA 3, Qwen2-VL (biases, multimodal rotary positions) and the speech generator. Modules are
named as in transformers' `LlamaForCausalLM` and `Qwen2ForCausalLM`, below `model.`.

Shapes: B batch, L positions of this call, P positions in the cache before it, E width, H heads, K
key-value heads, D head width, F rotary frequencies (D / 2), V vocabulary.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from model_core.language.attention import Rotary, attend, rotate
from model_core.language.extractor import Extraction
from model_core.language.kv_cache import KeyValueCache
from model_core.language.lora import AdaptedLinear, Adapter, AdapterRows, LoraConfig, LoraWeights, rows_of

# One cache of sequences that advance in lockstep, or one for each row.
Cache = KeyValueCache | Sequence[KeyValueCache] | None
# Gets the queries [B, H, L, D] and keys [B, K, L, D] of a layer.
Observer = Callable[[Tensor, Tensor], None]

# Positions that the feed-forward processes at a time without gradients, which bounds the memory of a long prompt.
_MLP_CHUNK = 2048


class DecoderStack(nn.Module):
    """Decoder layers and the final norm, over given embeddings.

    Attributes:
        checkpoint_every: Recompute the activations of every n-th layer in the backward pass, for less memory and more
            work; 0 keeps all.
    """

    def __init__(self, config: "Decoder.Config") -> None:
        super().__init__()
        self.config = config
        self.checkpoint_every = 0
        self.layers = nn.ModuleList(DecoderLayer(config, index) for index in range(config.layers))
        self.norm = nn.RMSNorm(config.width, config.norm_epsilon)

    @property
    def adapters(self) -> tuple[str, ...]:
        """Names of the resident adapters."""
        return tuple(sorted({name for module in self._adapted().values() for name in module.adapters}))

    def add_adapter(self, name: str, config: LoraConfig, projections: Sequence[str]) -> None:
        """Adds an adapter that changes nothing yet to the named projections of every layer."""
        for path, module in self._adapted().items():
            if path.rsplit(".", 1)[-1] in projections:
                module.add_adapter(name, config)

    def load_adapter(self, name: str, weights: LoraWeights) -> None:
        """Adds a trained adapter, whose tensors fit this decoder, on the decoder's device."""
        device = self.norm.weight.device
        self.add_adapter(name, weights.config, weights.projections)
        for path, module in self._adapted().items():
            if name in module.adapters:
                own = {
                    part: weights.tensors[f"{path}.{part}"].to(device) for part in ("lora_A.weight", "lora_B.weight")
                }
                module.adapters[name].load_state_dict(own, assign=True)
                module.adapters[name].train(self.training)

    def remove_adapter(self, name: str) -> None:
        """Removes an adapter from memory."""
        for module in self._adapted().values():
            if name in module.adapters:
                del module.adapters[name]

    def new_cache(self, reserve: int = 64) -> KeyValueCache:
        """An empty cache, with `reserve` as in KeyValueCache."""
        return KeyValueCache(self.config.layers, reserve)

    def forward(
        self,
        embeds_BLE: Tensor,
        cache: Cache = None,
        adapter: Adapter = None,
        positions: Tensor | None = None,
        lengths: Sequence[int] | None = None,
        extraction: Extraction | None = None,
    ) -> Tensor:
        """Runs embeddings through the layers; each attends to itself, those before it and the cache.

        Args:
            embeds_BLE: Token embeddings, or speech and vision tokens, [B, L, E].
            cache: Holds the positions before these; these are appended. None for whole sequences in one call.
            adapter: LoRA adapter in use, for all rows or row by row.
            positions: Position of each embedding in time, height and width, [3, L] or [3, B, L] integers; by default
                each sequence continues from its cache.
            lengths: Number of embeddings in each row; padding follows on the right.
            extraction: Drops context tokens after each block, and holds afterwards the positions that the hidden states
                belong to. The cache must be empty.

        Returns:
            Hidden states after the final norm, [B, L, E]; undefined in the padding.

        Raises ValueError for an extraction with one cache for several rows.
        """
        adapters = rows_of(adapter, embeds_BLE.device)
        caches = [cache] if isinstance(cache, KeyValueCache) else cache
        if extraction and caches and len(caches) != len(embeds_BLE):
            raise ValueError("extraction leaves rows of different lengths: each needs a cache of its own")
        if positions is None:
            positions = _next_positions(embeds_BLE, caches or ())
        rotary = self.rotary(positions if positions.dim() == 3 else positions[:, None], embeds_BLE.dtype)
        for each, length in zip(caches or (), lengths or [embeds_BLE.shape[1]] * len(embeds_BLE), strict=False):
            each.length += length
        ends = extraction.config.block_ends(len(self.layers)) if extraction else []
        hidden_BLE = embeds_BLE
        for index, layer in enumerate(self.layers):
            observer: Observer | None = extraction.observe if extraction and index in ends else None
            recompute = self.training and self.checkpoint_every and index % self.checkpoint_every == 0 and not observer
            run = partial(checkpoint, layer, use_reentrant=False) if recompute else layer
            hidden_BLE = run(hidden_BLE, rotary, caches, adapters, lengths, observer)
            if extraction and observer:
                hidden_BLE = extraction.drop(hidden_BLE)
                cos, sin = (x.expand(len(embeds_BLE), -1, -1) for x in rotary)
                rotary = extraction.drop(cos), extraction.drop(sin)
                lengths = extraction.advance()
        normed_BLE: Tensor = self.norm(hidden_BLE)
        return normed_BLE

    def rotary(self, positions_3BL: Tensor, dtype: torch.dtype) -> Rotary:
        """Cosines and sines [B, L, D] of the rotary angles.

        Each frequency turns with the position in time, height or width, as `rope_sections` assigns them.
        """
        config, device = self.config, positions_3BL.device
        steps_F = torch.arange(0, config.head_width, 2, dtype=torch.float32, device=device) / config.head_width
        sections = config.rope_sections or (len(steps_F), 0, 0)
        axis_F = torch.repeat_interleave(torch.arange(3, device=device), torch.tensor(sections, device=device))
        angles_BLF = positions_3BL[axis_F].permute(1, 2, 0) * config.rope_base**-steps_F
        angles_BLD = torch.cat((angles_BLF, angles_BLF), dim=-1)
        return angles_BLD.cos().to(dtype), angles_BLD.sin().to(dtype)

    def _adapted(self) -> dict[str, AdaptedLinear]:
        return {path: module for path, module in self.named_modules() if isinstance(module, AdaptedLinear)}


class Decoder(DecoderStack):
    """The stack with an embedding table before it and an output layer behind it, which may share their weights."""

    @dataclass(kw_only=True, frozen=True, slots=True)
    class Config:
        """Shape of a decoder.

        Args:
            context: Context length in tokens.
            qkv_bias: Whether query, key and value projections have a bias, as in Qwen2.
            tied_output: Whether the output layer shares the embedding table's weights.
            rope_sections: Number of rotary frequencies for time, height and width (Qwen2-VL, section 2.1); None for one
                position that rotates all.
        """

        vocabulary: int
        width: int
        layers: int
        heads: int
        key_value_heads: int
        feed_forward: int
        context: int
        rope_base: float = 100_000.0
        norm_epsilon: float = 1e-5
        qkv_bias: bool = False
        tied_output: bool = True
        rope_sections: tuple[int, int, int] | None = None

        @property
        def head_width(self) -> int:
            return self.width // self.heads

        def build(self) -> "Decoder":
            return Decoder(self)

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.embed_tokens = nn.Embedding(config.vocabulary, config.width)
        self.lm_head = None if config.tied_output else nn.Linear(config.width, config.vocabulary, bias=False)

    @property
    def output_weight(self) -> Tensor:
        """[V, E] weights of the output layer."""
        return self.lm_head.weight if self.lm_head else self.embed_tokens.weight

    def logits(self, hidden: Tensor) -> Tensor:
        """[..., E] hidden states -> [..., V] logits."""
        return F.linear(hidden, self.output_weight)


class DecoderLayer(nn.Module):
    """Attention and feed-forward, each with its norm before it and a residual connection around it."""

    def __init__(self, config: Decoder.Config, index: int) -> None:
        super().__init__()
        self.input_layernorm = nn.RMSNorm(config.width, config.norm_epsilon)
        self.self_attn = DecoderAttention(config, index)
        self.post_attention_layernorm = nn.RMSNorm(config.width, config.norm_epsilon)
        self.mlp = GatedFeedForward(config)

    def forward(
        self,
        hidden_BLE: Tensor,
        rotary: Rotary,
        caches: Sequence[KeyValueCache] | None,
        adapters: AdapterRows,
        lengths: Sequence[int] | None,
        observer: Observer | None,
    ) -> Tensor:
        mixed_BLE = self.self_attn(self.input_layernorm(hidden_BLE), rotary, caches, adapters, lengths, observer)
        hidden_BLE = hidden_BLE + mixed_BLE
        if torch.is_grad_enabled() or hidden_BLE.shape[1] <= _MLP_CHUNK:
            return hidden_BLE + self._feed_forward(hidden_BLE, adapters)
        for start in range(0, hidden_BLE.shape[1], _MLP_CHUNK):
            chunk_BLE = hidden_BLE[:, start : start + _MLP_CHUNK]
            chunk_BLE += self._feed_forward(chunk_BLE, adapters)
        return hidden_BLE

    def _feed_forward(self, hidden_BLE: Tensor, adapters: AdapterRows) -> Tensor:
        update_BLE: Tensor = self.mlp(self.post_attention_layernorm(hidden_BLE), adapters)
        return update_BLE


class DecoderAttention(nn.Module):
    """Grouped-query attention with rotary positions and a key-value cache."""

    def __init__(self, config: Decoder.Config, index: int) -> None:
        super().__init__()
        self.index = index
        self.head_width = config.head_width
        kv_width = config.key_value_heads * config.head_width
        self.q_proj = AdaptedLinear(config.width, config.width, bias=config.qkv_bias)
        self.k_proj = AdaptedLinear(config.width, kv_width, bias=config.qkv_bias)
        self.v_proj = AdaptedLinear(config.width, kv_width, bias=config.qkv_bias)
        self.o_proj = AdaptedLinear(config.width, config.width, bias=False)

    def forward(
        self,
        hidden_BLE: Tensor,
        rotary: Rotary,
        caches: Sequence[KeyValueCache] | None,
        adapters: AdapterRows,
        lengths: Sequence[int] | None,
        observer: Observer | None,
    ) -> Tensor:
        q, k, v = (
            rearrange(projection(hidden_BLE, adapters), "b l (h d) -> b h l d", d=self.head_width)
            for projection in (self.q_proj, self.k_proj, self.v_proj)
        )
        q, k = rotate(q, rotary), rotate(k, rotary)
        if observer:
            observer(q, k)
        attended_BHLD = self._attend(q, k, v, caches, lengths)
        mixed: Tensor = self.o_proj(rearrange(attended_BHLD, "b h l d -> b l (h d)"), adapters)
        return mixed

    def _attend(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        caches: Sequence[KeyValueCache] | None,
        lengths: Sequence[int] | None,
    ) -> Tensor:
        if not caches:
            return attend(q, k, v)
        if len(caches) == 1:
            return attend(q, *caches[0].append(self.index, k, v))
        # Rows with caches of different lengths attend one by one; everything else runs over the batch at once.
        attended = torch.zeros_like(q)
        for row, (cache, length) in enumerate(zip(caches, lengths or [q.shape[2]] * len(caches), strict=True)):
            own = slice(row, row + 1)
            all_k, all_v = cache.append(self.index, k[own, :, :length], v[own, :, :length])
            attended[own, :, :length] = attend(q[own, :, :length], all_k, all_v)
        return attended


class GatedFeedForward(nn.Module):
    """SwiGLU feed-forward."""

    def __init__(self, config: Decoder.Config) -> None:
        super().__init__()
        self.gate_proj = AdaptedLinear(config.width, config.feed_forward, bias=False)
        self.up_proj = AdaptedLinear(config.width, config.feed_forward, bias=False)
        self.down_proj = AdaptedLinear(config.feed_forward, config.width, bias=False)

    def forward(self, hidden_BLE: Tensor, adapters: AdapterRows) -> Tensor:
        gated, up = self.gate_proj(hidden_BLE, adapters), self.up_proj(hidden_BLE, adapters)
        # Large for a long prompt: without gradients they are overwritten in place.
        gated = F.silu(gated) * up if torch.is_grad_enabled() else F.silu(gated, inplace=True).mul_(up)
        projected: Tensor = self.down_proj(gated, adapters)
        return projected


def _next_positions(embeds_BLE: Tensor, caches: Sequence[KeyValueCache]) -> Tensor:
    """[3, B, L] positions that continue each cache, or start at 0."""
    starts = torch.tensor([cache.length for cache in caches] or [0])
    return (starts[:, None] + torch.arange(embeds_BLE.shape[1])).expand(3, -1, -1).to(embeds_BLE.device)
