"""`lyra train` as processes: killed at any moment it goes on with the same losses, and several share a step."""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from tests.paths import ROOT
from tests.training_runs import (
    Processes,
    command,
    free_port,
    losses,
    lyra,
    run,
    to_align,
    to_instruct,
    to_speak,
    write_data,
)

CHECKPOINTS = "checkpoints"


@pytest.fixture(scope="module")
def processes() -> Processes:
    return Processes()


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    write_data(folder / "align", to_align(10), "align")
    write_data(folder / "instruct", to_instruct(10))
    write_data(folder / "long-speech", to_instruct(8, seconds=3.0))
    write_data(folder / "speech-generator", to_speak(10), "speech-generation")
    return folder


def trained(out: Path) -> dict[str, Tensor]:
    """The tensors of the last checkpoint and of all parts that were written."""
    last = max((out / CHECKPOINTS).iterdir(), key=lambda path: int(path.name.rsplit("-", 1)[1]))
    parts = [*out.glob("*.safetensors"), *out.glob("adapters/*/*.safetensors"), last / "trained.safetensors"]
    return {f"{path.name} {name}": tensor for path in parts for name, tensor in load_file(path).items()}


def assert_same(out: Path, undisturbed: Path) -> None:
    assert losses(out) == losses(undisturbed)
    ours, theirs = trained(out), trained(undisturbed)
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        assert torch.equal(tensor, theirs[name]), name


def kill_after(processes: Processes, arguments: list[str], out: Path, lines: int) -> None:
    """Starts a run and kills it when its log has so many lines."""
    process = processes.start(arguments)
    while process.is_alive() and len(losses(out)) < lines:
        time.sleep(0.005)
    process.kill()
    process.join()
    assert process.exitcode == -9


@pytest.mark.parametrize(
    ("stage", "further"),
    [
        ("align", ("--steps", 24)),
        ("instruct", ("--steps", 13, "--batch", 4, "--device-batch", 2)),  # accumulated
        ("long-speech", ("--steps", 14, "--evaluate-every", 4)),  # measured, with extraction
        ("speech-generator", ("--steps", 30)),
    ],
)
def test_a_killed_stage_goes_on_with_the_losses_of_an_undisturbed_one(
    stage: str, further: tuple[object, ...], data: Path, processes: Processes, tmp_path: Path
) -> None:
    folder = data / stage
    if "--evaluate-every" in further:
        further = (*further, "--evaluate", folder)
    processes.run(command(stage, folder, tmp_path / "undisturbed", *further))
    again = command(stage, folder, tmp_path / "killed", *further)
    kill_after(processes, again, tmp_path / "killed", 5)
    plant_half_a_checkpoint(tmp_path / "killed" / CHECKPOINTS)
    kill_after(processes, again, tmp_path / "killed", 9)
    processes.run(again)
    assert_same(tmp_path / "killed", tmp_path / "undisturbed")


def plant_half_a_checkpoint(checkpoints: Path) -> None:
    """A checkpoint as a kill leaves it that comes while it is written."""
    half = checkpoints / "checkpoint-12"
    half.mkdir(parents=True)
    (half / "trained.safetensors").write_bytes(b"\x08")
    (half / "trainer_state.json").write_text("{")


def test_several_processes_share_a_step_and_write_one_set_of_files(data: Path, tmp_path: Path) -> None:
    measured = ("--evaluate", data / "instruct", "--evaluate-every", 3)
    Processes().run(command("align", data / "align", tmp_path / "start", "--steps", 1))
    further = ("--steps", 6, "--batch", 4, "--device-batch", 2, "--start", tmp_path / "start", *measured)
    port = str(free_port())
    torchrun = ["-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", port, "-m", "--", "cli"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    two = subprocess.run(
        [sys.executable, *torchrun, *command("instruct", data / "instruct", tmp_path / "two", *further)],
        cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=240,
    )  # fmt: skip
    assert two.returncode == 0, two.stderr
    shutil.copytree(data / "instruct", tmp_path / "data")  # whose features are there already
    Processes().run(command("instruct", tmp_path / "data", tmp_path / "one", *further))
    ones, twos = losses(tmp_path / "one"), losses(tmp_path / "two")
    assert [row["step"] for row in ones] == [row["step"] for row in twos]
    for one, other in zip(ones, twos, strict=True):
        assert one == pytest.approx(other, rel=1e-4)
    files = [
        sorted(str(path.relative_to(out)) for path in out.rglob("*") if path.is_file() and "rng_state" not in path.name)
        for out in (tmp_path / "one", tmp_path / "two")
    ]
    logs = [[name for name in names if name.startswith("logs/")] for names in files]
    assert [len(names) for names in logs] == [1, 1]
    assert [name for name in files[0] if name not in logs[0]] == [name for name in files[1] if name not in logs[1]]


def test_processes_that_were_killed_together_go_on_together(data: Path, processes: Processes, tmp_path: Path) -> None:
    def arguments(out: str, steps: int) -> list[str]:
        return command("instruct", data / "instruct", tmp_path / out, "--batch", 2, "--steps", steps)

    processes.run_together(2, lyra, arguments("undisturbed", 8))
    processes.run_together(2, lyra, arguments("stopped", 8))
    # As if it had been killed after step 6: the first of the second epoch.
    shutil.rmtree(tmp_path / "stopped" / CHECKPOINTS / "checkpoint-8")
    processes.run_together(2, lyra, arguments("stopped", 8))
    assert_same(tmp_path / "stopped", tmp_path / "undisturbed")


def test_a_run_at_its_end_takes_no_further_step(data: Path, tmp_path: Path) -> None:
    first = run("align", data / "align", tmp_path, steps=7)
    weights = trained(tmp_path)
    (tmp_path / "projector.safetensors").unlink()
    assert run("align", data / "align", tmp_path, steps=7) == first
    for name, tensor in trained(tmp_path).items():
        assert torch.equal(tensor, weights[name]), name
