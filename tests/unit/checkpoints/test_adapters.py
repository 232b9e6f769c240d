"""Third-party adapters: whatever does not fit is named, and the decoder is unchanged."""

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from model_core.checkpoints.inspection import inspect
from model_core.checkpoints.peft_adapters import load_adapter, read_projector, save_adapter, save_trainables
from model_core.errors import CheckpointError
from model_core.language.decoder import Decoder
from model_core.language.lora import PROJECTIONS, LoraConfig
from tests.unit.checkpoints import small
from tests.unit.checkpoints.small import IDS, RANKS, SmallLyra, logits_of

A = "base_model.model.model.layers.1.mlp.up_proj.lora_A.weight"


@pytest.fixture
def speech(folder: Path) -> Path:
    return folder / "speech_lora"


def refusal(speech: Path) -> CheckpointError:
    """The error of loading an adapter into a decoder that has another; `inspect` has to report the same."""
    decoder = small.make().decoder
    decoder.remove_adapter("speech")
    names, before = list(decoder.state_dict()), logits_of(decoder, IDS, "long_speech")
    with pytest.raises(CheckpointError) as raised:
        load_adapter(decoder, "speech", speech)
    assert list(decoder.state_dict()) == names
    assert decoder.adapters == ("long_speech",)
    assert torch.equal(logits_of(decoder, IDS, "long_speech"), before)
    assert any(name.endswith(raised.value.name) for name, _ in inspect(speech.parent).problems)
    return raised.value


def change_config(speech: Path, **changes: Any) -> None:
    path = speech / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def change_tensors(speech: Path, change: Callable[[dict[str, Tensor]], object]) -> None:
    tensors = load_file(speech / "adapter_model.safetensors")
    change(tensors)
    save_file(tensors, speech / "adapter_model.safetensors")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("peft_type", "IA3"),
        ("r", 0),
        ("r", 2.5),
        ("r", "2"),
        ("r", True),
        ("r", 10**6),
        ("lora_alpha", None),
        ("lora_alpha", float("nan")),
        ("lora_dropout", 1.0),
        ("bias", "all"),
        ("use_dora", True),
        ("rank_pattern", {"q_proj": 4}),
        ("alpha_pattern", {"q_proj": 4}),
        ("modules_to_save", ["lm_head"]),
        ("layers_to_transform", [0]),
        ("something_new", 1),
        ("init_lora_weights", "pissa_niter_4"),
        ("target_modules", ["q_proj"]),
        ("target_modules", [*PROJECTIONS, "lm_head"]),
    ],
)
def test_an_invalid_field_or_one_beyond_plain_lora_is_refused(speech: Path, field: str, value: Any) -> None:
    change_config(speech, **{field: value})
    assert refusal(speech).name == f"adapter_config.json: {field}"


def test_a_rank_that_differs_from_the_tensors_is_refused(speech: Path) -> None:
    change_config(speech, r=3)
    refused = refusal(speech)
    assert refused.name == A.replace("layers.1.mlp.up_proj", "layers.0.self_attn.q_proj")
    assert "rank 3" in refused.message


def test_an_adapter_of_a_wider_model_is_refused(tmp_path: Path) -> None:
    wider = Decoder.Config(**{**small.LANGUAGE, "width": 64, "rope_sections": (4, 6, 6)}).build()
    wider.add_adapter("speech", LoraConfig(rank=2, alpha=4), PROJECTIONS)
    save_adapter(wider, "speech", tmp_path)
    with pytest.raises(CheckpointError, match=r"layers\.0\.self_attn\.q_proj\.lora_A\.weight: has the shape \[2, 64\]"):
        load_adapter(small.make().decoder, "new", tmp_path)


def test_an_adapter_of_a_deeper_model_is_refused(tmp_path: Path) -> None:
    deeper = Decoder.Config(**{**small.LANGUAGE, "layers": 4}).build()
    deeper.add_adapter("speech", LoraConfig(rank=2, alpha=4), ("q_proj",))
    save_adapter(deeper, "speech", tmp_path)
    with pytest.raises(CheckpointError, match=r"layers\.3\.self_attn\.q_proj\.lora_[AB]\.weight: belongs to no layer"):
        load_adapter(small.make().decoder, "new", tmp_path)


@pytest.mark.parametrize("bad", [float("nan"), float("-inf")])
def test_values_that_are_not_finite_are_refused(speech: Path, bad: float) -> None:
    change_tensors(speech, lambda tensors: tensors[A].view(-1)[0].fill_(bad))
    assert refusal(speech).name == A


def test_a_missing_tensor_is_named(speech: Path) -> None:
    change_tensors(speech, lambda tensors: tensors.pop(A))
    assert (refusal(speech).name, refusal(speech).message) == (A, "is missing from the adapter")


@pytest.mark.parametrize(
    "name",
    [
        "base_model.model.model.layers.1.mlp.up_proj.lora_magnitude_vector",
        "base_model.model.model.layers.1.input_layernorm.lora_A.weight",
        "base_model.model.model.speech_tower.speech_tower.layers.0.fc1.lora_A.weight",
        "model.layers.1.mlp.up_proj.weight",
    ],
)
def test_an_unknown_tensor_is_named(speech: Path, name: str) -> None:
    change_tensors(speech, lambda tensors: tensors.update({name: torch.zeros(2, 32)}))
    assert refusal(speech).name == name


def test_the_same_tensor_under_two_names_is_refused(speech: Path) -> None:
    again = A.replace("lora_A.weight", "lora_A.default.weight")
    change_tensors(speech, lambda tensors: tensors.update({again: tensors[A].clone()}))
    assert refusal(speech).name in (A, again)


@pytest.mark.parametrize("left", [0, 9, -1])
def test_a_truncated_file_is_refused(speech: Path, left: int) -> None:
    file = speech / "adapter_model.safetensors"
    file.write_bytes(file.read_bytes()[:left])
    assert refusal(speech).name == file.name


def test_a_pickle_without_a_state_dict_is_refused(speech: Path) -> None:
    (speech / "adapter_model.safetensors").unlink()
    (speech / "adapter_model.bin").write_bytes(pickle.dumps({A: print}, protocol=2))
    assert refusal(speech).name == "adapter_model.bin"


def test_missing_files_are_named(speech: Path, tmp_path: Path) -> None:
    (speech / "adapter_model.safetensors").unlink()
    assert refusal(speech).name == "adapter_model.safetensors"
    with pytest.raises(CheckpointError, match=r"adapter_config\.json: is missing"):
        load_adapter(small.make().decoder, "new", tmp_path)


def test_a_name_that_is_already_resident_is_refused(speech: Path) -> None:
    decoder = small.make().decoder
    with pytest.raises(CheckpointError, match="speech: is the name of an adapter that is already resident"):
        load_adapter(decoder, "speech", speech)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda it: it.pop("linear2.bias"), "linear2.bias"),
        (lambda it: it.update({"linear3.bias": torch.zeros(2)}), "model.model.mm_speech_projector.linear3.bias"),
        (lambda it: it.update({"linear1.bias": torch.zeros(3)}), "model.model.mm_speech_projector.linear1.bias"),
        (lambda it: it["linear2.bias"].fill_(torch.nan), "model.model.mm_speech_projector.linear2.bias"),
    ],
    ids=["missing", "unknown", "misshapen", "nan"],
)
def test_tensors_that_are_not_a_projector_are_refused(
    lyra_model: SmallLyra, folder: Path, change: Callable[[dict[str, Tensor]], object], named: str
) -> None:
    tensors = {name: tensor.clone() for name, tensor in lyra_model.projectors["speech"].state_dict().items()}
    change(tensors)
    save_trainables(tensors, folder / "speech_lora")
    with pytest.raises(CheckpointError) as raised:
        read_projector(folder / "speech_lora")
    assert raised.value.name == named
    assert any(name.endswith(named) for name, _ in inspect(folder).problems)


def test_trainables_of_another_part_are_refused(folder: Path) -> None:
    torch.save({"model.model.embed_tokens.weight": torch.zeros(2)}, folder / "speech_lora" / "non_lora_trainables.bin")
    with pytest.raises(CheckpointError, match=r"model\.model\.embed_tokens\.weight: is unknown"):
        read_projector(folder / "speech_lora")


def test_a_folder_without_a_projector_has_none(tmp_path: Path) -> None:
    assert read_projector(tmp_path) is None


def test_an_adapter_is_loaded_in_the_dtype_of_the_decoder(speech: Path) -> None:
    decoder = small.make().decoder.to(torch.bfloat16)
    load_adapter(decoder, "new", speech)
    assert {parameter.dtype for name, parameter in decoder.named_parameters() if ".new." in name} == {torch.bfloat16}
    assert logits_of(decoder, IDS, "new").isfinite().all()


def test_an_adapter_can_be_unloaded_and_loaded_again(lyra_model: SmallLyra, folder: Path) -> None:
    decoder = small.make().decoder
    for name, place in {"speech": "speech_lora", "long_speech": "long_speech_lora"}.items():
        decoder.remove_adapter(name)
        load_adapter(decoder, name, folder / place)
        assert torch.equal(logits_of(decoder, IDS, name), logits_of(lyra_model.decoder, IDS, name))
    assert decoder.adapters == tuple(sorted(RANKS))
