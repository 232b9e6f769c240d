"""Folders written by transformers and PEFT, without any code of ours."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file
from transformers import PreTrainedModel, Qwen2Config, Qwen2ForCausalLM, Qwen2VLConfig, Qwen2VLForConditionalGeneration

from model_core.checkpoints.peft_adapters import load_adapter, read_projector
from model_core.checkpoints.published import open_checkpoint
from model_core.language.decoder import Decoder
from tests.unit.checkpoints.small import IDS, logits_of, on_meta, randomize

TEXT: dict[str, Any] = {
    "vocab_size": 320,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "rms_norm_eps": 1e-6,
}
SECTIONS = [1, 1, 2]


def qwen2_vl() -> Qwen2VLForConditionalGeneration:
    rope = {"rope_type": "default", "rope_theta": 1e6, "mrope_section": SECTIONS}
    vision = {"depth": 1, "embed_dim": 16, "num_heads": 2, "hidden_size": 32, "patch_size": 4}
    return Qwen2VLForConditionalGeneration(
        Qwen2VLConfig(text_config={**TEXT, "rope_parameters": rope}, vision_config=vision)
    )


def qwen2() -> Qwen2ForCausalLM:
    rope = {"rope_type": "default", "rope_theta": 1e6}
    return Qwen2ForCausalLM(Qwen2Config(**TEXT, rope_parameters=rope, tie_word_embeddings=True))


@pytest.fixture(params=[qwen2_vl, qwen2], ids=["qwen2-vl", "qwen2"])
def theirs(request: pytest.FixtureRequest) -> PreTrainedModel:
    torch.manual_seed(0)
    model: PreTrainedModel = request.param()
    randomize(model)
    return model.eval()


def as_published(folder: Path) -> None:
    """Writes the config in the format of the released folders: flat, with the fields of transformers at the time."""
    sections = {"type": "mrope", "mrope_section": SECTIONS}
    fields = {**TEXT, "rope_theta": 1e6, "rope_scaling": sections, "hidden_act": "silu", "use_sliding_window": False}
    lyra = {"model_type": "Lyra_Qwen2VL", "tie_word_embeddings": False, "mm_projector_type": "identity"}
    (folder / "config.json").write_text(json.dumps(fields | lyra | {"compress_gap": 33, "keep_rate": 1.0}))


def load(folder: Path) -> Decoder:
    checkpoint = open_checkpoint(folder)
    decoder: Decoder = on_meta(checkpoint.config.language)
    checkpoint.load_into(decoder, "language")
    return decoder


@torch.inference_mode()
def test_a_folder_saved_by_transformers_gives_identical_logits(theirs: PreTrainedModel, tmp_path: Path) -> None:
    theirs.save_pretrained(tmp_path, max_shard_size="30KB")
    assert (tmp_path / "model.safetensors.index.json").is_file()
    torch.testing.assert_close(logits_of(load(tmp_path), IDS), theirs(IDS).logits, atol=1e-4, rtol=1e-4)


@torch.inference_mode()
def test_a_released_folder_with_multimodal_positions_gives_identical_logits(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = qwen2_vl().eval()
    randomize(model)
    model.save_pretrained(tmp_path)
    as_published(tmp_path)
    decoder = load(tmp_path)
    positions = torch.stack([torch.arange(10), torch.arange(10) // 2, torch.arange(10) % 3])
    ours = decoder.logits(decoder(decoder.embed_tokens(IDS), positions=positions))
    oracle = model(inputs_embeds=model.get_input_embeddings()(IDS), position_ids=positions[:, None])
    torch.testing.assert_close(ours, oracle.logits, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("rank_stabilised", [False, True], ids=["plain", "rslora"])
@pytest.mark.parametrize("safe", [True, False], ids=["safetensors", "bin"])
def test_a_folder_saved_by_peft_gives_identical_logits(
    theirs: PreTrainedModel, tmp_path: Path, rank_stabilised: bool, safe: bool
) -> None:
    theirs.save_pretrained(tmp_path)
    targets = r".*layers\.\d+\.(self_attn|mlp)\.[a-z]+_proj"
    lora = LoraConfig(r=3, lora_alpha=12, target_modules=targets, use_rslora=rank_stabilised, task_type="CAUSAL_LM")
    adapted = get_peft_model(theirs, lora).eval()
    randomize_adapter(adapted)
    save_peft(adapted, tmp_path / "speech_lora", safe)
    decoder = load(tmp_path)
    load_adapter(decoder, "speech", open_checkpoint(tmp_path).adapter_folders()["speech"])
    with torch.inference_mode():
        torch.testing.assert_close(logits_of(decoder, IDS, "speech"), adapted(IDS).logits, atol=1e-4, rtol=1e-4)
        with adapted.disable_adapter():
            torch.testing.assert_close(logits_of(decoder, IDS), adapted(IDS).logits, atol=1e-4, rtol=1e-4)


def test_an_adapter_on_some_of_the_projections_is_read(theirs: PreTrainedModel, tmp_path: Path) -> None:
    theirs.save_pretrained(tmp_path)
    targets = ["q_proj", "down_proj"]
    adapted = get_peft_model(theirs, LoraConfig(r=2, lora_alpha=8, target_modules=targets)).eval()
    randomize_adapter(adapted)
    adapted.save_pretrained(str(tmp_path / "speech_lora"))
    decoder = load(tmp_path)
    load_adapter(decoder, "speech", tmp_path / "speech_lora")
    with torch.inference_mode():
        torch.testing.assert_close(logits_of(decoder, IDS, "speech"), adapted(IDS).logits, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("prefix", ["model.", "base_model.model."])
def test_trainables_are_read_with_the_prefix_of_either_wrapper(tmp_path: Path, prefix: str) -> None:
    shapes = {"linear1.weight": (4, 40), "linear1.bias": (4,), "linear2.weight": (6, 4), "linear2.bias": (6,)}
    stored = {name: torch.randn(shape, dtype=torch.float16) for name, shape in shapes.items()}
    published = {f"{prefix}model.mm_speech_projector.{name}": tensor for name, tensor in stored.items()}
    torch.save(published, tmp_path / "non_lora_trainables.bin")
    projector = read_projector(tmp_path)
    assert projector is not None
    assert all(torch.equal(projector[name], tensor) for name, tensor in stored.items())
    assert projector.keys() == stored.keys()


def randomize_adapter(adapted: PeftModel) -> None:
    torch.manual_seed(1)
    for name, parameter in adapted.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter, std=0.2)


def save_peft(adapted: PeftModel, folder: Path, safe: bool) -> None:
    adapted.save_pretrained(str(folder))
    weights = folder / "adapter_model.safetensors"
    if not safe:
        torch.save(load_file(weights), weights.with_suffix(".bin"))
        weights.unlink()
