"""An interrupted run resumes with the losses and weights of an uninterrupted one; runs are in this process."""

from pathlib import Path
from typing import Any

import pytest
import torch

from model_core.training.options import Source
from model_core.training.stage_run import StageRun
from tests.training_runs import (
    align_samples,
    assert_same_run,
    instruct_samples,
    losses,
    options,
    plant_incomplete_checkpoint,
    run,
    speech_generation_samples,
    trained_tensors,
    write_data,
)


class Interrupted(Exception):
    """Ends a run between two steps."""


def interrupt(stage: str, data: Path, out: Path, step: int, **changed: Any) -> None:
    """Runs a stage up to a step."""

    def stop(name: str, done: int, total: int, word: str) -> None:
        if name == stage and done == step:
            raise Interrupted

    with pytest.raises(Interrupted):
        StageRun(options(stage, data, out, **changed), stop).run()


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    write_data(folder / "align", align_samples(10), "align")
    write_data(folder / "instruct", instruct_samples(10))
    write_data(folder / "long-speech", instruct_samples(8, seconds=3.0))
    write_data(folder / "speech-generator", speech_generation_samples(10), "speech-generation")
    return folder


@pytest.mark.parametrize(
    ("stage", "changed"),
    [
        ("align", {"steps": 14}),
        ("instruct", {"steps": 13, "hyperparameters": {"batch": 4}, "device_batch": 2}),  # accumulated
        ("long-speech", {"steps": 14, "evaluate_every": 4}),  # evaluated, with extraction
        ("speech-generator", {"steps": 14}),
    ],
)
def test_an_interrupted_run_resumes_with_the_same_losses_and_weights(
    stage: str, changed: dict[str, Any], data: Path, tmp_path: Path
) -> None:
    if "evaluate_every" in changed:
        changed = changed | {"evaluate": (Source(data / stage),)}
    run(stage, data / stage, tmp_path / "whole", **changed)
    interrupt(stage, data / stage, tmp_path / "resumed", 5, **changed)
    plant_incomplete_checkpoint(tmp_path / "resumed")
    interrupt(stage, data / stage, tmp_path / "resumed", 9, **changed)
    run(stage, data / stage, tmp_path / "resumed", **changed)
    assert_same_run(tmp_path / "resumed", tmp_path / "whole")


def test_a_finished_run_takes_no_further_step(data: Path, tmp_path: Path) -> None:
    first = run("align", data / "align", tmp_path, steps=7)
    weights = trained_tensors(tmp_path)
    (tmp_path / "projector.safetensors").unlink()
    assert run("align", data / "align", tmp_path, steps=7) == first == losses(tmp_path)
    for name, tensor in trained_tensors(tmp_path).items():
        assert torch.equal(tensor, weights[name]), name
