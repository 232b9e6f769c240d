"""`lyra train` in processes: a killed run resumes with the same losses, and several processes share a step."""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from model_core.training.arguments import CHECKPOINTS
from model_core.training.options import Source, Start
from tests.paths import ROOT
from tests.training_runs import (
    Processes,
    align_samples,
    assert_same_run,
    command,
    free_port,
    instruct_samples,
    losses,
    lyra,
    plant_incomplete_checkpoint,
    run,
    write_data,
)


@pytest.fixture(scope="module")
def processes() -> Processes:
    return Processes()


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    write_data(folder / "align", align_samples(10), "align")
    write_data(folder / "instruct", instruct_samples(10))
    return folder


def kill_after(processes: Processes, arguments: list[str], out: Path, lines: int) -> None:
    """Starts a run and kills it once its log has `lines` lines."""
    process = processes.start(arguments)
    while process.is_alive() and len(losses(out)) < lines:
        time.sleep(0.005)
    process.kill()
    process.join()
    assert process.exitcode == -9


def test_killed_run_resumes_with_the_losses_of_an_uninterrupted_one(
    data: Path, processes: Processes, tmp_path: Path
) -> None:
    further = ("--steps", 13, "--batch", 4, "--device-batch", 2)
    processes.run(command("instruct", data / "instruct", tmp_path / "whole", *further))
    again = command("instruct", data / "instruct", tmp_path / "killed", *further)
    kill_after(processes, again, tmp_path / "killed", 5)
    plant_incomplete_checkpoint(tmp_path / "killed")
    kill_after(processes, again, tmp_path / "killed", 9)
    processes.run(again)
    assert_same_run(tmp_path / "killed", tmp_path / "whole")


def test_several_processes_share_a_step_and_write_one_set_of_files(data: Path, tmp_path: Path) -> None:
    run("align", data / "align", tmp_path / "start", steps=1)
    evaluation = ("--evaluate", data / "instruct", "--evaluate-every", 3)
    further = ("--steps", 6, "--batch", 4, "--device-batch", 2, "--start", tmp_path / "start", *evaluation)
    port = str(free_port())
    torchrun = ["-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", port, "-m", "--", "cli"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    two = subprocess.run(
        [sys.executable, *torchrun, *command("instruct", data / "instruct", tmp_path / "two", *further)],
        cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=240,
    )  # fmt: skip
    assert two.returncode == 0, two.stderr
    shutil.copytree(data / "instruct", tmp_path / "data")  # whose features are there already
    ones = run(
        "instruct",
        tmp_path / "data",
        tmp_path / "one",
        steps=6,
        hyperparameters={"batch": 4},
        device_batch=2,
        start=Start(parts=(tmp_path / "start",)),
        evaluate=(Source(data / "instruct"),),
        evaluate_every=3,
    )
    twos = losses(tmp_path / "two")
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


def test_several_processes_resume_together(data: Path, processes: Processes, tmp_path: Path) -> None:
    def train(out: Path) -> None:
        arguments = command("instruct", data / "instruct", out, "--batch", 2, "--steps", 8)
        processes.run_together(2, lyra, arguments)

    whole, resumed = tmp_path / "whole", tmp_path / "resumed"
    train(whole)
    # As if it had been killed after step 6, the first of the second epoch.
    shutil.copytree(whole, resumed)
    shutil.rmtree(resumed / CHECKPOINTS / "checkpoint-8")
    train(resumed)
    assert_same_run(resumed, whole)
