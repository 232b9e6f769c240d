"""`lyra parity` agrees with the reference numbers, and detects every change to them."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from typer.testing import CliRunner, Result

from cli.main import app
from model_core.evaluation.parity import TOLERANCE, check_parity
from tests.paths import DATA

REFERENCE = DATA / "parity"
FILES = ("regularizer", "projector", "extractor", "speech_generator", "vocoder")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of the reference that a test may modify."""
    return shutil.copytree(REFERENCE, tmp_path / "parity")


def parity(folder: Path) -> Result:
    return CliRunner().invoke(app, ["parity", str(folder)])


def change(folder: Path, file: str, name: str, edit: Callable[[Tensor], Tensor]) -> None:
    path = folder / f"{file}.safetensors"
    tensors = load_file(path)
    tensors[name] = edit(tensors[name])
    save_file(tensors, path)


def scaled(factor: float) -> Callable[[Tensor], Tensor]:
    """Multiplies the largest value by a factor."""

    def edit(tensor: Tensor) -> Tensor:
        changed = tensor.clone()
        changed.view(-1)[tensor.abs().argmax()] *= factor
        return changed

    return edit


def next_index(tensor: Tensor) -> Tensor:
    return torch.cat((tensor[:1] + 1, tensor[1:]))


def test_every_output_of_every_file_agrees_and_is_listed() -> None:
    result = parity(REFERENCE)
    assert result.exit_code == 0, result.output
    outputs = {(comparison.file, comparison.output) for comparison in check_parity(REFERENCE)}
    assert len(outputs) == result.stdout.count("agrees") == 24
    assert {file for file, _ in outputs} == {f"{file}.safetensors" for file in FILES}


VALUES = [
    ("regularizer", "dtw0.value"),
    ("regularizer", "dtw1.loss"),
    ("regularizer", "dtw1.grad_speech"),
    ("regularizer", "dtw2.grad_text"),
    ("projector", "output"),
    ("extractor", "case1.score"),
    ("speech_generator", "loss.value"),
    ("vocoder", "waveform_without_duration"),
    ("vocoder", "waveform_with_duration"),
]


@pytest.mark.parametrize(("file", "name"), VALUES)
def test_a_changed_value_is_detected(folder: Path, file: str, name: str) -> None:
    change(folder, file, name, scaled(1.003))
    result = parity(folder)
    assert result.exit_code == 1
    assert f"1 of 24 do not agree: {file}.safetensors {name}" in result.stderr
    assert result.stdout.count("differs") == 1


def test_a_change_within_the_tolerance_agrees(folder: Path) -> None:
    for name in ("case0.score", "case1.score", "case2.score"):
        change(folder, "extractor", name, scaled(1 + TOLERANCE / 2))
    assert parity(folder).exit_code == 0


INDICES = [
    ("extractor", "case0.kept_index"),
    ("speech_generator", "predict.frames"),
    ("vocoder", "duration"),
]


@pytest.mark.parametrize(("file", "name"), INDICES)
def test_one_changed_index_is_detected(folder: Path, file: str, name: str) -> None:
    change(folder, file, name, next_index)
    result = parity(folder)
    assert result.exit_code == 1
    assert f"{file}.safetensors {name}" in result.stderr
    assert "1 differ" in result.stdout


INPUTS = [
    ("regularizer", "dtw0.speech", torch.neg),
    ("projector", "weight.linear1.weight", scaled(2.0)),
    ("extractor", "case1.query", torch.neg),
    ("extractor", "case0.keep_rate", scaled(1.2)),
    ("speech_generator", "weight.output_proj.weight", torch.neg),
    ("vocoder", "weight.conv_post.bias", scaled(2.0)),
]


@pytest.mark.parametrize(("file", "name", "edit"), INPUTS)
def test_a_changed_input_or_weight_is_detected(
    folder: Path, file: str, name: str, edit: Callable[[Tensor], Tensor]
) -> None:
    change(folder, file, name, edit)
    result = parity(folder)
    assert result.exit_code == 1
    assert f"{file}.safetensors" in result.stderr


def test_a_nan_does_not_agree(folder: Path) -> None:
    change(folder, "projector", "output", scaled(float("nan")))
    assert parity(folder).exit_code == 1


def test_an_output_of_another_length_does_not_agree(folder: Path) -> None:
    change(folder, "extractor", "case0.kept_index", lambda kept: kept[1:].clone())
    result = parity(folder)
    assert result.exit_code == 1
    assert "case0.kept_index: ours has shape [75], the reference [74]" in result.stderr


@pytest.mark.parametrize("file", FILES)
def test_missing_file_is_named_and_the_others_are_checked(folder: Path, file: str) -> None:
    (folder / f"{file}.safetensors").unlink()
    result = parity(folder)
    assert result.exit_code == 1
    assert f"{file}.safetensors: is missing from" in result.stderr
    assert {each.file for each in check_parity(folder) if not each.agrees} == {f"{file}.safetensors"}


@pytest.mark.parametrize("size", [0, 100, 10_000])
def test_truncated_file_is_named(folder: Path, size: int) -> None:
    path = folder / "extractor.safetensors"
    path.write_bytes(path.read_bytes()[:size])
    result = parity(folder)
    assert result.exit_code == 1
    assert "extractor.safetensors: cannot be read" in result.stderr


@pytest.mark.parametrize(
    ("file", "name", "edit"),
    [
        ("regularizer", "dtw1.speech", lambda speech: speech[:, :-1].clone()),
        ("projector", "weight.linear1.weight", lambda weight: weight[:, :-1].clone()),
        ("extractor", "case2.context_mask", lambda mask: mask[:-1].clone()),
        ("extractor", "case2.score", torch.Tensor.long),
        ("speech_generator", "config", lambda config: config[:-1].clone()),
        ("speech_generator", "loss.units", lambda units: units + 1000),
        ("vocoder", "weight.conv_pre.bias", lambda bias: bias[:-1].clone()),
        ("vocoder", "code", lambda code: code + 1000),
    ],
)
def test_a_tensor_of_the_wrong_shape_fails_its_file(
    folder: Path, file: str, name: str, edit: Callable[[Tensor], Tensor]
) -> None:
    change(folder, file, name, edit)
    failed = [comparison for comparison in check_parity(folder) if not comparison.agrees]
    assert {comparison.file for comparison in failed} == {f"{file}.safetensors"}
    assert any(comparison.problem for comparison in failed)


def test_missing_tensor_is_named(folder: Path) -> None:
    path = folder / "regularizer.safetensors"
    save_file({name: tensor for name, tensor in load_file(path).items() if name != "dtw1.text"}, path)
    assert "dtw1.text: is missing from regularizer.safetensors" in parity(folder).stderr


@pytest.mark.parametrize("content", ["", "[]", json.dumps({"upsample_rates": [5]})])
def test_broken_vocoder_config_fails_the_vocoder(folder: Path, content: str) -> None:
    (folder / "vocoder_config.json").write_text(content)
    failed = [comparison for comparison in check_parity(folder) if not comparison.agrees]
    assert [comparison.file for comparison in failed] == ["vocoder.safetensors"]
    assert failed[0].problem


def test_parity_usage_errors_exit_with_2(tmp_path: Path) -> None:
    assert CliRunner().invoke(app, ["parity"]).exit_code == 2
    assert parity(tmp_path / "nowhere").exit_code == 2
    assert parity(REFERENCE / "README.md").exit_code == 2
