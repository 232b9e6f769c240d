"""`lyra weights inspect` and `export`."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner, Result

from cli.main import app
from model_core.checkpoints.published import open_checkpoint, read_tokenizer
from model_core.presets import build_language_model
from tests.unit.checkpoints.small import IDS, logits_of, on_meta


def lyra_weights(*arguments: Any) -> Result:
    return CliRunner().invoke(app, ["weights", *map(str, arguments)], env={"COLUMNS": "200", "LYRA_CHECKPOINT": ""})


def test_a_valid_folder_is_shown_part_by_part(whole: Path) -> None:
    result = lyra_weights("inspect", whole)
    assert result.exit_code == 0, result.output
    for shown in ("Lyra_Qwen2VL_SpeechGenerator", "language", "speech_generator", "vision_tower", "vocoder", "float32"):
        assert shown in result.stdout
    assert "q_proj, k_proj, v_proj, o_proj, gate_proj, up_proj, down_proj" in result.stdout
    assert "wrong" not in result.stdout


def test_json_has_the_same_figures(whole: Path) -> None:
    report = json.loads(lyra_weights("inspect", whole, "--json", "--quick").stdout)
    assert report["loads"]
    assert report["problems"] == []
    ranks = {
        adapter["name"]: (adapter["rank"], adapter["alpha"], adapter["projector"]) for adapter in report["adapters"]
    }
    assert ranks == {"speech": (2, 4, True), "long_speech": (5, 10, True)}
    decoder = on_meta(open_checkpoint(whole).config.language)
    language = next(part for part in report["parts"] if part["part"] == "language")
    assert language["parameters"] == sum(parameter.numel() for parameter in decoder.parameters())
    assert language["size_bytes"] == 4 * language["parameters"]


def test_a_folder_that_cannot_be_loaded_exits_with_1_and_every_reason(folder: Path) -> None:
    (folder / "speech_lora" / "adapter_config.json").write_text("{}")
    (folder / "vocoder" / "g_00500000").write_bytes(b"")
    result = lyra_weights("inspect", folder)
    assert result.exit_code == 1
    assert "speech_lora: adapter_config.json: peft_type" in result.stdout
    assert "vocoder: g_00500000" in result.stdout
    assert "cannot be loaded: 2 problems" in result.stderr
    as_json = lyra_weights("inspect", folder, "--json")
    assert as_json.exit_code == 1
    assert len(json.loads(as_json.stdout)["problems"]) == 2


def test_an_exported_preset_gives_identical_logits(tmp_path: Path) -> None:
    result = lyra_weights("export", "tiny-qwen2-vl", tmp_path / "made")
    assert result.exit_code == 0, result.output
    assert lyra_weights("inspect", tmp_path / "made").exit_code == 0
    preset = build_language_model("tiny-qwen2-vl")
    checkpoint = open_checkpoint(tmp_path / "made")
    decoder = on_meta(checkpoint.config.language)
    checkpoint.load_into(decoder, "language", preset.decoder.norm.weight.dtype)
    assert torch.equal(logits_of(decoder, IDS), logits_of(preset.decoder, IDS))
    assert set(checkpoint.adapter_folders()) == set(preset.decoder.adapters)
    assert read_tokenizer(tmp_path / "made").to_str() == preset.tokenizer.to_str()


@pytest.mark.parametrize(("preset", "code"), [("tiny", 1), ("huge", 2)])
def test_a_preset_that_the_layout_cannot_hold_is_not_exported(tmp_path: Path, preset: str, code: int) -> None:
    assert lyra_weights("export", preset, tmp_path / "made").exit_code == code
    assert not (tmp_path / "made").exists()
