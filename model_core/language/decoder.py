"""A decoder of the LLaMA family: RMS norm, rotary positions, grouped-query attention, gated feed-forward, named LoRA.

One class for SmolLM2 and LLaMA 3 (as it is), Qwen2-VL (biases, multimodal rotary positions) and the speech generator.
Names are those of transformers' `LlamaForCausalLM` and `Qwen2ForCausalLM`, below `model.`.

Shapes: B batch, L positions of this call, P positions in the cache before it, E width, H heads, K key-value heads,
D head width, F rotary frequencies (D / 2), V vocabulary.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from model_core.language.extractor import Extraction
from model_core.language.kv_cache import KeyValueCache
from model_core.language.lora import AdaptedLinear, Adapter, AdapterRows, LoraConfig, LoraWeights, rows_of

# Cosines and sines of the rotary angles, each [B, L, D], B being 1 where all rows have the same positions.
Rotary = tuple[Tensor, Tensor]
# One cache of sequences that advance in step, or one for each row.
Cache = KeyValueCache | Sequence[KeyValueCache] | None
Observer = Callable[[Tensor, Tensor], None]

# Without gradients the wide feed-forward takes so many positions at a time: a long prompt then never holds it all.
_MLP_CHUNK = 2048
_SHORT = 512  # positions


class DecoderStack(nn.Module):
    """Layers and the final norm, over embeddings that come from elsewhere."""

    def __init__(self, config: "Decoder.Config") -> None:
        super().__init__()
        self.config = config
        # Training may forget the activations of every n-th layer and compute them again backwards: less memory, more
        # work; 0 keeps all.
        self.checkpoint_every = 0
        self.layers = nn.ModuleList(DecoderLayer(config, index) for index in range(config.layers))
        self.norm = nn.RMSNorm(config.width, config.norm_epsilon)

    @property
    def adapters(self) -> tuple[str, ...]:
        """Adapters that are resident."""
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
        """Takes an adapter out of memory."""
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
        prefix_hidden: Tensor | None = None,
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
                belong to. The cache must be empty except for the prefix.
            prefix_hidden: What `prefill_prefix` returned for the positions before these, [1, P, E]: after the layers
                that it ran through, prefix and embeddings continue together. `positions` then covers both.

        Returns:
            Hidden states after the final norm, [B, L, E]; undefined in the padding.

        Raises:
            ValueError: `extraction` with one cache for several rows.
        """
        adapters = rows_of(adapter, embeds_BLE.device)
        caches = [cache] if isinstance(cache, KeyValueCache) else cache
        if extraction and caches and len(caches) != len(embeds_BLE):
            raise ValueError("extraction leaves rows of different lengths: each needs a cache of its own")
        if positions is None:
            starts = torch.tensor([each.length for each in caches or ()] or [0])
            positions = (starts[:, None] + torch.arange(embeds_BLE.shape[1])).expand(3, -1, -1).to(embeds_BLE.device)
        all_rotary = rotary = self._rotary(positions if positions.dim() == 3 else positions[:, None], embeds_BLE.dtype)
        if prefix_hidden is not None:
            cos, sin = (x[:, prefix_hidden.shape[1] :] for x in all_rotary)
            rotary = cos, sin
        added = lengths or [embeds_BLE.shape[1]] * embeds_BLE.shape[0]
        for each, length in zip(caches or (), added, strict=False):
            each.length += length
        ends = extraction.config.block_ends(len(self.layers)) if extraction else []
        joint = ends[0] if prefix_hidden is not None else None
        hidden_BLE = embeds_BLE
        for index, layer in enumerate(self.layers):
            observer: Observer | None = extraction.observe if extraction and index in ends else None
            if extraction and caches and index == joint:
                observer = _with_prefix(caches[0].keys(index), extraction.observe)
            if self.checkpoint_every and index % self.checkpoint_every == 0 and self.training and not observer:
                hidden_BLE = checkpoint(layer, hidden_BLE, rotary, caches, adapters, lengths, None, use_reentrant=False)
            else:
                hidden_BLE = layer(hidden_BLE, rotary, caches, adapters, lengths, observer)
            if prefix_hidden is not None and index == joint:
                hidden_BLE, rotary = torch.cat((prefix_hidden, hidden_BLE), dim=1), all_rotary
            if extraction and observer:
                hidden_BLE = extraction.drop(hidden_BLE)
                cos, sin = (x.expand(len(embeds_BLE), -1, -1) for x in rotary)
                rotary = extraction.drop(cos), extraction.drop(sin)
                lengths = extraction.advance()
        normed_BLE: Tensor = self.norm(hidden_BLE)
        return normed_BLE

    def prefill_prefix(
        self, embeds_1PE: Tensor, cache: KeyValueCache, adapter: str | None, positions_3P: Tensor, layers: int
    ) -> Tensor:
        """Runs the prefix of a sequence through the first `layers` layers and appends it to their cache.

        Returns:
            Hidden states after the last of them, [1, P, E], for `forward(prefix_hidden=...)`.
        """
        adapters = rows_of(adapter, embeds_1PE.device)
        rotary = self._rotary(positions_3P[:, None], embeds_1PE.dtype)
        cache.length += embeds_1PE.shape[1]
        hidden_1PE = embeds_1PE
        for index in range(layers):
            hidden_1PE = self.layers[index](hidden_1PE, rotary, [cache], adapters, None, None)
        return hidden_1PE

    def _rotary(self, positions_3BL: Tensor, dtype: torch.dtype) -> Rotary:
        """Each frequency turns with the position in time, height or width, as `rope_sections` shares them out."""
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
    """The stack between an embedding table and an output layer, which may be the embedding table again."""

    @dataclass(kw_only=True, frozen=True, slots=True)
    class Config:
        """Shape of a decoder.

        Args:
            qkv_bias: Whether queries, keys and values have a bias, as in Qwen2.
            tied_output: Whether the embedding table is the output layer too.
            rope_sections: How many rotary frequencies turn with time, height and width (Qwen2-VL, section 2.1); None
                where all turn with the one position.
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

    def logits(self, hidden: Tensor) -> Tensor:
        """[..., E] -> [..., V]"""
        return F.linear(hidden, self.lm_head.weight if self.lm_head else self.embed_tokens.weight)


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
        rotary: Rotary,
        caches: Sequence[KeyValueCache] | None,
        adapters: AdapterRows,
        lengths: Sequence[int] | None,
        observer: Observer | None,
    ) -> Tensor:
        mixed_BLE = self.self_attn(self.input_layernorm(hidden_BLE), rotary, caches, adapters, lengths, observer)
        hidden_BLE = hidden_BLE + mixed_BLE
        if torch.is_grad_enabled() or hidden_BLE.shape[1] <= _MLP_CHUNK:
            return hidden_BLE + self._fed(hidden_BLE, adapters)
        for start in range(0, hidden_BLE.shape[1], _MLP_CHUNK):
            some_BLE = hidden_BLE[:, start : start + _MLP_CHUNK]
            some_BLE += self._fed(some_BLE, adapters)
        return hidden_BLE

    def _fed(self, hidden_BLE: Tensor, adapters: AdapterRows) -> Tensor:
        fed_BLE: Tensor = self.mlp(self.post_attention_layernorm(hidden_BLE), adapters)
        return fed_BLE


class DecoderAttention(nn.Module):
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
        # Rows that have read more or less than others attend each for itself; all else is done for the batch at once.
        attended = torch.zeros_like(q)
        for row, (cache, length) in enumerate(zip(caches, lengths or [q.shape[2]] * len(caches), strict=True)):
            own = slice(row, row + 1)
            all_k, all_v = cache.append(self.index, k[own, :, :length], v[own, :, :length])
            attended[own, :, :length] = attend(q[own, :, :length], all_k, all_v)
        return attended


class GatedFeedForward(nn.Module):
    def __init__(self, config: Decoder.Config) -> None:
        super().__init__()
        self.gate_proj = AdaptedLinear(config.width, config.feed_forward, bias=False)
        self.up_proj = AdaptedLinear(config.width, config.feed_forward, bias=False)
        self.down_proj = AdaptedLinear(config.feed_forward, config.width, bias=False)

    def forward(self, hidden_BLE: Tensor, adapters: AdapterRows) -> Tensor:
        gated, up = self.gate_proj(hidden_BLE, adapters), self.up_proj(hidden_BLE, adapters)
        # A long prompt's are large: without gradients they are overwritten.
        gated = F.silu(gated) * up if torch.is_grad_enabled() else F.silu(gated, inplace=True).mul_(up)
        fed: Tensor = self.down_proj(gated, adapters)
        return fed


def _with_prefix(keys_BKPD: Tensor, observe: Observer) -> Observer:
    """Lets an extraction see the prefix's keys, too; no position of the prefix belongs to the instruction."""

    def observer(q_BHLD: Tensor, k_BKLD: Tensor) -> None:
        observe(F.pad(q_BHLD, (0, 0, keys_BKPD.shape[2], 0)), torch.cat((keys_BKPD, k_BKLD), dim=2))

    return observer


def rotate(x_BHLD: Tensor, rotary: Rotary) -> Tensor:
    """Rotary position embedding over halves (Su et al. 2021, in the layout of the LLaMA checkpoints)."""
    cos, sin = (x_BLD[:, None] for x_BLD in rotary)
    first, second = x_BHLD.chunk(2, dim=-1)
    return x_BHLD * cos + torch.cat((-second, first), dim=-1) * sin


def attend(q_BHLD: Tensor, k_BKPD: Tensor, v_BKPD: Tensor) -> Tensor:
    """Causal attention of the last L of P + L positions, [B, H, L, D]; key-value heads are shared, never copied."""
    length, all_positions, groups = q_BHLD.shape[2], k_BKPD.shape[2], q_BHLD.shape[1] // k_BKPD.shape[1]
    if length == 1:
        grouped = rearrange(q_BHLD, "b (k g) 1 d -> b k g d", g=groups)
        return rearrange(F.scaled_dot_product_attention(grouped, k_BKPD, v_BKPD), "b k g d -> b (k g) 1 d")
    if length == all_positions:
        return _attend_within(q_BHLD, k_BKPD, v_BKPD)
    mask = causal_mask(all_positions - length, length, q_BHLD.device)
    return F.scaled_dot_product_attention(q_BHLD, k_BKPD, v_BKPD, attn_mask=mask, enable_gqa=True)


def _attend_within(q_BHLD: Tensor, k_BKLD: Tensor, v_BKLD: Tensor) -> Tensor:
    if not (q_BHLD.is_cpu and q_BHLD.requires_grad and q_BHLD.shape[2] <= _SHORT):
        return F.scaled_dot_product_attention(q_BHLD, k_BKLD, v_BKLD, is_causal=True, enable_gqa=True)
    # PyTorch's backward over short sequences on a CPU takes three times as long in bfloat16 as in float32.
    with torch.autocast("cpu", enabled=False):
        attended_BHLD = F.scaled_dot_product_attention(
            q_BHLD.float(), k_BKLD.float(), v_BKLD.float(), is_causal=True, enable_gqa=True
        )
    return attended_BHLD.to(q_BHLD.dtype)


def causal_mask(before: int, length: int, device: torch.device) -> Tensor:
    """[L, P + L] booleans: True where a position may attend."""
    return torch.ones(length, before + length, dtype=torch.bool, device=device).tril(before)
