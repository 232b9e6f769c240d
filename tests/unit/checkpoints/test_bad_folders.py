"""Every fault of a folder is named, and nothing is loaded from it."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor

from model_core.checkpoints.inspection import inspect
from model_core.checkpoints.published import open_checkpoint, read_tokenizer, read_vocoder
from model_core.errors import CheckpointError
from tests.unit.checkpoints import small
from tests.unit.checkpoints.small import SmallLyra, on_meta

INDEX = "model.safetensors.index.json"
UP = "model.layers.1.mlp.up_proj.weight"


class RunsCode:
    def __init__(self, makes: Path) -> None:
        self.makes = makes

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.makes,)


def shard_of(folder: Path, tensor: str) -> Path:
    weight_map = json.loads((folder / INDEX).read_text())["weight_map"]
    return folder / str(weight_map[tensor])


def change_tensors(folder: Path, change: Callable[[dict[str, Tensor]], object], tensor: str = UP) -> None:
    """Rewrites the shard that holds a tensor; the index is unchanged."""
    shard = shard_of(folder, tensor)
    tensors = load_file(shard)
    change(tensors)
    save_file(tensors, shard)


def change_json(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def change_weight_map(folder: Path, changes: dict[str, Any]) -> None:
    weight_map = json.loads((folder / INDEX).read_text())["weight_map"]
    change_json(folder / INDEX, weight_map=weight_map | changes)


def refusal(folder: Path) -> CheckpointError:
    """The error of loading the language model, which `inspect` reports too; the module stays on the meta device."""
    decoder = on_meta(small.make().decoder.config)
    with pytest.raises(CheckpointError) as raised:
        open_checkpoint(folder).load_into(decoder, "language")
    assert all(parameter.is_meta for parameter in decoder.parameters())
    report = inspect(folder)
    assert not report.loads
    assert raised.value.name in {name for name, _ in report.problems}
    return raised.value


def test_a_checkpoint_of_another_model_is_refused(folder: Path) -> None:
    change_json(folder / "config.json", model_type="gpt2")
    assert refusal(folder).name == "config.json: model_type"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("hidden_size", "32"),
        ("num_hidden_layers", 0),
        ("num_hidden_layers", 10**9),
        ("num_attention_heads", 5),
        ("rms_norm_eps", None),
        ("rope_scaling", {"type": "yarn"}),
        ("hidden_act", "gelu"),
        ("head_dim", 64),
        ("mm_speech_projector_type", "qformer"),
        ("ctc_decoder_config", "2,16,2,24"),
        ("unit_vocab_size", True),
        ("keep_rate", 1.5),
        ("keep_rate", 0),
        ("mm_vision_tower", "models/.."),
    ],
)
def test_an_impossible_field_of_the_config_is_named(folder: Path, field: str, value: Any) -> None:
    change_json(folder / "config.json", **{field: value})
    assert refusal(folder).name == f"config.json: {field}"


def test_rotary_sections_that_do_not_fill_a_head_are_refused(folder: Path) -> None:
    change_json(folder / "config.json", rope_scaling={"type": "mrope", "mrope_section": [16, 24, 24]})
    assert refusal(folder).name == "config.json: mrope_section"


@pytest.mark.parametrize("text", ["", "[]", "{", '{"model_type": '])
def test_a_file_that_is_not_a_config_is_refused(folder: Path, text: str) -> None:
    (folder / "config.json").write_text(text)
    assert refusal(folder).name in ("config.json", "config.json: model_type")


def test_a_missing_tensor_is_named(folder: Path) -> None:
    change_tensors(folder, lambda tensors: tensors.pop(UP))
    assert refusal(folder).name == UP
    index = json.loads((folder / INDEX).read_text())
    del index["weight_map"][UP]
    (folder / INDEX).write_text(json.dumps(index))
    assert (refusal(folder).name, refusal(folder).message) == (UP, "is missing")


@pytest.mark.parametrize("name", ["model.layers.1.mlp.gate_up_proj.weight", "transformer.wte.weight", UP + ".scale"])
def test_an_unknown_tensor_is_named(folder: Path, name: str) -> None:
    change_tensors(folder, lambda tensors: tensors.update({name: torch.zeros(2)}))
    assert refusal(folder).name == name
    change_weight_map(folder, {name: shard_of(folder, UP).name})
    assert refusal(folder).name == name


def test_a_tensor_of_the_wrong_shape_is_named(folder: Path) -> None:
    change_tensors(folder, lambda tensors: tensors.update({UP: tensors[UP].T.contiguous()}))
    refused = refusal(folder)
    assert refused.name == UP
    assert "[32, 48]" in refused.message
    assert "[48, 32]" in refused.message


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused(folder: Path, bad: float) -> None:
    change_tensors(folder, lambda tensors: tensors[UP].view(-1)[-1].fill_(bad))
    assert refusal(folder).name == UP
    assert inspect(folder, values=False).loads


def test_a_value_that_overflows_the_requested_dtype_is_refused(folder: Path) -> None:
    change_tensors(folder, lambda tensors: tensors[UP].view(-1)[0].fill_(1e30))
    decoder = on_meta(small.make().decoder.config)
    with pytest.raises(CheckpointError, match=r"infinite values in torch\.float16"):
        open_checkpoint(folder).load_into(decoder, "language", torch.float16)


def test_integers_in_place_of_floats_are_refused(folder: Path) -> None:
    change_tensors(folder, lambda tensors: tensors.update({UP: tensors[UP].to(torch.int8)}))
    assert refusal(folder).name == UP


@pytest.mark.parametrize("left", [0, 7, 60, -1])
def test_a_truncated_shard_is_refused(folder: Path, left: int) -> None:
    shard = shard_of(folder, UP)
    shard.write_bytes(shard.read_bytes()[:left])
    assert refusal(folder).name == shard.name


def test_a_missing_shard_is_named(folder: Path) -> None:
    shard = shard_of(folder, UP)
    shard.unlink()
    assert refusal(folder).name == shard.name


@pytest.mark.parametrize(
    "file", ["../secret.safetensors", "/etc/passwd", "..", "", "a/b.bin", "a\\b.bin", "model.pkl", 5, None]
)
def test_an_index_pointing_outside_the_folder_is_refused(folder: Path, file: Any) -> None:
    shutil.copy(shard_of(folder, UP), folder.parent / "secret.safetensors")
    change_weight_map(folder, {UP: file})
    assert refusal(folder).name == f"{INDEX}: weight_map"


def test_a_tensor_in_two_shards_is_refused(folder: Path) -> None:
    other = next(shard for shard in sorted(folder.glob("model-*")) if shard != shard_of(folder, UP))
    save_file(load_file(other) | {UP: torch.zeros(48, 32)}, other)
    assert refusal(folder).name == UP


def test_a_folder_without_weights_is_refused(folder: Path) -> None:
    for file in folder.glob("model*"):
        file.unlink()
    assert refusal(folder).name == "model.safetensors"


def test_a_pickle_that_would_run_code_is_not_loaded(folder: Path) -> None:
    for file in folder.glob("model*"):
        file.unlink()
    torch.save({UP: RunsCode(folder / "made")}, folder / "pytorch_model.bin")
    assert "could run code" in refusal(folder).message
    assert not (folder / "made").exists()


@pytest.mark.parametrize("held", [[torch.zeros(2)], {"a": 3}, {"a": {"b": torch.zeros(2)}}, {1: torch.zeros(2)}])
def test_a_pickle_with_anything_but_tensors_is_refused(folder: Path, held: Any) -> None:
    for file in folder.glob("model*"):
        file.unlink()
    torch.save(held, folder / "pytorch_model.bin")
    assert "pytorch_model.bin" in refusal(folder).name


def test_a_truncated_pickle_is_refused(folder: Path) -> None:
    for file in folder.glob("model*"):
        file.unlink()
    torch.save({UP: torch.zeros(48, 32)}, folder / "pytorch_model.bin")
    data = (folder / "pytorch_model.bin").read_bytes()
    (folder / "pytorch_model.bin").write_bytes(data[: len(data) // 2])
    assert refusal(folder).name == "pytorch_model.bin"


def test_a_missing_encoder_is_named(folder: Path) -> None:
    change_json(folder / "config.json", mm_speech_tower="whisper-large-v3")
    weight_map = json.loads((folder / INDEX).read_text())["weight_map"]
    kept = {name: file for name, file in weight_map.items() if ".speech_tower." not in name}
    for shard in folder.glob("model-*"):
        tensors = {name: tensor for name, tensor in load_file(shard).items() if name in kept}
        save_file(tensors, shard)
    change_json(folder / INDEX, weight_map=kept)
    checkpoint = open_checkpoint(folder)
    with pytest.raises(CheckpointError, match="whisper-large-v3: is missing"):
        checkpoint.load_into(on_meta(small.make().speech.config), "speech_tower")
    assert ("whisper-large-v3", f"is missing: there is no such folder inside {folder} or next to it") in inspect(
        folder
    ).problems


@pytest.mark.parametrize("held", [{"generator": [1]}, {"decoder": {}}, [], {"generator": {"dict.weight": 3}}])
def test_a_file_that_is_not_a_vocoder_is_refused(folder: Path, held: Any) -> None:
    torch.save(held, folder / "vocoder" / "g_00500000")
    with pytest.raises(CheckpointError, match="g_00500000"):
        read_vocoder(folder / "vocoder")
    assert any(name.startswith("vocoder: ") for name, _ in inspect(folder).problems)


def test_a_vocoder_without_its_config_is_refused(folder: Path) -> None:
    (folder / "vocoder" / "config.json").unlink()
    with pytest.raises(CheckpointError, match=r"config\.json: is missing"):
        read_vocoder(folder / "vocoder" / "g_00500000")


def test_a_missing_or_broken_tokenizer_is_named(folder: Path) -> None:
    (folder / "tokenizer.json").write_text("{}")
    with pytest.raises(CheckpointError, match="cannot be read"):
        read_tokenizer(folder)
    (folder / "tokenizer.json").unlink()
    with pytest.raises(CheckpointError, match="is missing"):
        read_tokenizer(folder)
    assert not inspect(folder).loads


def test_a_folder_that_is_not_empty_is_not_overwritten(lyra_model: SmallLyra, folder: Path) -> None:
    before = sorted(folder.iterdir())
    with pytest.raises(CheckpointError, match="is not empty"):
        lyra_model.export(folder)
    assert sorted(folder.iterdir()) == before


def test_an_adapter_that_the_layout_cannot_hold_is_not_exported(tmp_path: Path) -> None:
    model = small.make()
    model.decoder.add_adapter("vision", small.RANKS["speech"], ("q_proj",))
    with pytest.raises(CheckpointError, match="vision: has no place"):
        model.export(tmp_path / "made")
    assert not (tmp_path / "made").exists()


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 10**7) | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=4,
)
FILES = ("config.json", INDEX, "speech_lora/adapter_config.json", "vocoder/config.json", "tokenizer_config.json")


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_inspection_never_raises_for_any_field_value(whole: Path, data: st.DataObject) -> None:
    file = data.draw(st.sampled_from(FILES))
    target = whole / file
    before = target.read_text() if target.is_file() else None
    fields = json.loads(before) if before else {"added_tokens_decoder": {}}
    field = data.draw(st.sampled_from([*fields, "text_config", "head_dim", "rope_parameters", "compress_gap"]))
    try:
        target.write_text(json.dumps(fields | {field: data.draw(ANYTHING)}))
        inspect(whole, values=False)
    finally:
        if before is None:
            target.unlink()
        else:
            target.write_text(before)
