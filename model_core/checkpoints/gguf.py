"""GGUF files of LLaMA models, read as tensors and a tokenizer with Hugging Face's names and layouts."""

from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from einops import rearrange
from gguf import GGUFReader
from gguf.quants import dequantize
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor

# GGUF name -> Hugging Face name.
_WHOLE_MODEL = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
_PER_LAYER = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_CONTROL_TOKEN = gguf.TokenType.CONTROL.value


def hugging_face_name(name: str) -> str:
    """`blk.3.attn_q.weight` -> `model.layers.3.self_attn.q_proj.weight`. Raises KeyError for an unknown name."""
    parts = name.split(".")
    if parts[0] == "blk":
        return f"model.layers.{parts[1]}.{_PER_LAYER[parts[2]]}.{parts[3]}"
    return f"{_WHOLE_MODEL[parts[0]]}.{parts[1]}"


def read_field(reader: GGUFReader, key: str) -> Any:
    """Value of a metadata field. Raises KeyError if the file lacks it."""
    field = reader.get_field(key)
    if field is None:
        raise KeyError(f"{key} is missing from the GGUF file")
    return field.contents()


def read_config(reader: GGUFReader) -> dict[str, Any]:
    """Metadata as the fields of a Hugging Face `LlamaConfig`."""
    heads = read_field(reader, "llama.attention.head_count")
    width = read_field(reader, "llama.embedding_length")
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": width,
        "intermediate_size": read_field(reader, "llama.feed_forward_length"),
        "num_hidden_layers": read_field(reader, "llama.block_count"),
        "num_attention_heads": heads,
        "num_key_value_heads": read_field(reader, "llama.attention.head_count_kv"),
        "head_dim": width // heads,
        "max_position_embeddings": read_field(reader, "llama.context_length"),
        "rope_theta": read_field(reader, "llama.rope.freq_base"),
        "rms_norm_eps": float(f"{read_field(reader, 'llama.attention.layer_norm_rms_epsilon'):.3g}"),
        "vocab_size": read_field(reader, "llama.vocab_size"),
        "bos_token_id": read_field(reader, "tokenizer.ggml.bos_token_id"),
        "eos_token_id": read_field(reader, "tokenizer.ggml.eos_token_id"),
        "pad_token_id": read_field(reader, "tokenizer.ggml.padding_token_id"),
        "tie_word_embeddings": all(tensor.name != "output.weight" for tensor in reader.tensors),
        "torch_dtype": "float16",
    }


def read_tensors(reader: GGUFReader, config: dict[str, Any]) -> dict[str, Tensor]:
    """Every tensor, dequantised to float16, with Hugging Face's names and row order.

    llama.cpp interleaves query and key rows for its rotary embedding; here the halves are separated again.
    """
    tensors = {}
    for tensor in reader.tensors:
        values = torch.from_numpy(np.array(dequantize(tensor.data, tensor.tensor_type)))
        name = hugging_face_name(tensor.name)
        if "q_proj" in name or "k_proj" in name:
            heads = config["num_attention_heads" if "q_proj" in name else "num_key_value_heads"]
            values = rearrange(values, "(h pair two) e -> (h two pair) e", h=heads, two=2)
        tensors[name] = values.to(torch.float16).contiguous()
    return tensors


def read_tokenizer(reader: GGUFReader) -> Tokenizer:
    """The byte-level BPE tokenizer of SmolLM2: digits are split, then GPT-2's pre-tokenizer applies.

    Raises ValueError for another kind of tokenizer.
    """
    kind = (read_field(reader, "tokenizer.ggml.model"), read_field(reader, "tokenizer.ggml.pre"))
    if kind != ("gpt2", "smollm"):
        raise ValueError(f"a tokenizer of kind {kind} is not supported, only ('gpt2', 'smollm')")
    tokens: list[str] = read_field(reader, "tokenizer.ggml.tokens")
    merges = [tuple(merge.split(" ")) for merge in read_field(reader, "tokenizer.ggml.merges")]
    tokenizer = Tokenizer(models.BPE({token: index for index, token in enumerate(tokens)}, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    kinds = read_field(reader, "tokenizer.ggml.token_type")
    control = [token for token, token_kind in zip(tokens, kinds, strict=True) if token_kind == _CONTROL_TOKEN]
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in control])
    return tokenizer


def open_gguf(path: Path) -> GGUFReader:
    """Maps a file into memory. Raises ValueError for one that is not GGUF."""
    return GGUFReader(path)
