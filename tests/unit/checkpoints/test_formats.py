"""Third-party formats, tested on small files that the tests write."""

import struct
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from transformers import WhisperConfig, WhisperForConditionalGeneration

from model_core.checkpoints import ctranslate2
from model_core.checkpoints.gguf import hugging_face_name, open_gguf, read_config, read_tensors, read_tokenizer


@pytest.fixture
def small_gguf(tmp_path: Path) -> Path:
    writer = gguf.GGUFWriter(tmp_path / "small.gguf", "llama")
    writer.add_block_count(1)
    writer.add_context_length(32)
    writer.add_embedding_length(8)
    writer.add_feed_forward_length(16)
    writer.add_head_count(2)
    writer.add_head_count_kv(1)
    writer.add_rope_freq_base(10_000.0)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(5)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(["<|im_start|>", "<|im_end|>", "a", "b", "ab"])
    writer.add_token_types([3, 3, 1, 1, 1])
    writer.add_token_merges(["a b"])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(1)
    writer.add_pad_token_id(1)
    rows = np.arange(64, dtype=np.float32).reshape(8, 8)
    writer.add_tensor("blk.0.attn_q.weight", rows)
    writer.add_tensor("token_embd.weight", np.ones((5, 8), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return tmp_path / "small.gguf"


def test_interleaved_query_rows_are_deinterleaved(small_gguf: Path) -> None:
    reader = open_gguf(small_gguf)
    query = read_tensors(reader, read_config(reader))["model.layers.0.self_attn.q_proj.weight"]
    # Two heads of four rows; llama.cpp stores rows 0, 2, 1, 3 of each.
    assert query[:, 0].tolist() == [0, 16, 8, 24, 32, 48, 40, 56]


def test_the_tokenizer_has_its_merges_and_control_tokens(small_gguf: Path) -> None:
    tokenizer = read_tokenizer(open_gguf(small_gguf))
    assert tokenizer.encode("<|im_start|>abba<|im_end|>").ids == [0, 4, 3, 2, 1]
    assert tokenizer.decode([4, 3], skip_special_tokens=True) == "abb"


def test_the_config_has_the_fields_of_hugging_face(small_gguf: Path) -> None:
    config = read_config(open_gguf(small_gguf))
    assert (config["hidden_size"], config["num_key_value_heads"], config["head_dim"]) == (8, 1, 4)
    assert config["tie_word_embeddings"]
    assert config["rms_norm_eps"] == 1e-5


def test_a_tensor_of_another_architecture_is_refused() -> None:
    with pytest.raises(KeyError, match="attn_qkv"):
        hugging_face_name("blk.0.attn_qkv.weight")


def write_ctranslate2(path: Path, variables: dict[str, np.ndarray], spec: str = "WhisperSpec") -> None:
    def text(value: str) -> bytes:
        return struct.pack("<H", len(value) + 1) + value.encode() + b"\0"

    with path.open("wb") as file:
        file.write(struct.pack("<I", 6) + text(spec) + struct.pack("<II", 3, len(variables)))
        for name, values in variables.items():
            file.write(text(name) + struct.pack("<B", values.ndim) + struct.pack(f"<{values.ndim}I", *values.shape))
            file.write(struct.pack("<BI", 0, values.nbytes) + values.tobytes())


def fuse(
    variables: dict[str, np.ndarray], layer: str, attention: str, part: str, stored: dict[str, np.ndarray], query: str
) -> None:
    """Query, key and value rows of self-attention in one variable; key and value rows of cross-attention in one."""
    rows = [
        stored.get(query.replace("q_proj", name), np.zeros(8, np.float32)) for name in ("q_proj", "k_proj", "v_proj")
    ]
    if attention == "self_attn":
        variables[f"{layer}/self_attention/linear_0/{part}"] = np.concatenate(rows)
    else:
        variables[f"{layer}/attention/linear_0/{part}"] = rows[0]
        variables[f"{layer}/attention/linear_1/{part}"] = np.concatenate(rows[1:])


def whisper_variables(model: WhisperForConditionalGeneration) -> dict[str, np.ndarray]:
    """The output of CTranslate2's converter: fused projections, zero biases for keys."""
    stored = {name: tensor.detach().numpy() for name, tensor in model.model.state_dict().items()}
    variables: dict[str, np.ndarray] = {}
    norms = {"weight": "gamma", "bias": "beta"}
    for name, values in stored.items():
        side, *path = name.split(".")
        match path:
            case ["embed_positions", "weight"]:
                variables[f"{side}/position_encodings/encodings"] = values
            case ["embed_tokens", "weight"]:
                variables[f"{side}/embeddings/weight"] = values
            case ["layer_norm", part]:
                variables[f"{side}/layer_norm/{norms[part]}"] = values
            case ["conv1" | "conv2", part]:
                variables[f"{side}/{path[0]}/{part}"] = values
            case ["layers", layer, "fc1" | "fc2" as linear, part]:
                variables[f"{side}/layer_{layer}/ffn/linear_{int(linear[-1]) - 1}/{part}"] = values
            case ["layers", layer, norm, part] if norm.endswith("layer_norm"):
                places = {"self_attn_layer_norm": "self_attention", "encoder_attn_layer_norm": "attention"}
                variables[f"{side}/layer_{layer}/{places.get(norm, 'ffn')}/layer_norm/{norms[part]}"] = values
            case ["layers", layer, attention, "out_proj", part]:
                place, linear = ("self_attention", 1) if attention == "self_attn" else ("attention", 2)
                variables[f"{side}/layer_{layer}/{place}/linear_{linear}/{part}"] = values
            case ["layers", layer, attention, "q_proj", part]:
                fuse(variables, f"{side}/layer_{layer}", attention, part, stored, name)
    return variables


def test_whisper_is_read_with_the_names_of_transformers(tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = WhisperConfig(
        vocab_size=20, d_model=8, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2,
        decoder_attention_heads=2, encoder_ffn_dim=12, decoder_ffn_dim=12, pad_token_id=0, bos_token_id=0,
        eos_token_id=0, decoder_start_token_id=0,
    )  # fmt: skip
    model = WhisperForConditionalGeneration(config)
    write_ctranslate2(tmp_path / "model.bin", whisper_variables(model))
    tensors = ctranslate2.whisper_tensors(ctranslate2.read_variables(tmp_path / "model.bin"))
    expected = {f"model.{name}": tensor for name, tensor in model.model.state_dict().items()}
    assert tensors.keys() == expected.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(tensors[name], tensor, msg=name)


def test_a_file_of_another_model_or_truncated_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.bin"
    write_ctranslate2(path, {"a": np.zeros(4, np.float32)}, spec="TransformerSpec")
    with pytest.raises(ValueError, match="TransformerSpec"):
        ctranslate2.read_variables(path)
    write_ctranslate2(path, {"encoder/conv1/bias": np.zeros(4, np.float32)})
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(ValueError, match="is truncated inside encoder/conv1/bias"):
        ctranslate2.read_variables(path)
