"""Small data sets and runs of preset tiny for training tests."""

import io
import multiprocessing
import os
import socket
from collections.abc import Callable, Sequence
from dataclasses import replace
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

from cli.main import app
from model_core.data.conversation import Conversation, Speech, Turn
from model_core.data.rows import to_light_sample, to_row
from model_core.data.shards import Manifest, write_manifest, write_shard
from model_core.language.messages import Role
from model_core.training.arguments import CHECKPOINTS
from model_core.training.examples import Example
from model_core.training.log import LOSSES_FILE, read_losses
from model_core.training.options import Source, StageOptions
from model_core.training.preset_models import load_models, stage_of
from model_core.training.stage_run import StageRun

WORDS = ("hello you", "yes", "good day", "red dot", "no no")


def user(text: str) -> Turn:
    """A turn of the user."""
    return Turn(role=Role.USER, text=text)


def assistant(text: str) -> Turn:
    """An answer."""
    return Turn(role=Role.ASSISTANT, text=text)


def noise(seed: int, seconds: float, transcript: str = "hello you") -> Speech:
    """A recording of noise."""
    samples = np.random.default_rng(seed).standard_normal(int(16_000 * seconds)) * 0.1
    file = io.BytesIO()
    soundfile.write(file, samples.astype(np.float32), 16_000, format="FLAC")
    return Speech(data=file.getvalue(), seconds=seconds, transcript=transcript)


def plain_picture(red: int) -> bytes:
    """A picture of one colour, as PNG."""
    file = io.BytesIO()
    Image.new("RGB", (40, 40), (red % 256, 0, 0)).save(file, "PNG")
    return file.getvalue()


def align_samples(count: int) -> list[Conversation]:
    """Recordings with transcripts; every third sample is a picture with its name."""
    made = []
    for row in range(count):
        words = WORDS[row % len(WORDS)]
        if row % 3 == 0:
            asked = user("<image>\nWhat?")
            made.append(Conversation(id=f"p{row}", turns=(asked, assistant(words)), images=(plain_picture(row * 20),)))
        else:
            speech = (noise(row, 2 + row * 0.1, words),)
            made.append(Conversation(id=f"s{row}", turns=(user("<speech>\nRepeat."), assistant(words)), speech=speech))
    return made


def instruct_samples(count: int, seconds: float = 1.0) -> list[Conversation]:
    """Two questions about a picture, the first one spoken; every second conversation ends unfinished."""
    return [
        Conversation(
            id=f"c{row}",
            turns=(
                user("<image>\n<speech>\nRepeat."),
                assistant(WORDS[row % len(WORDS)]),
                user("Again?"),
                assistant(f"hello {row}"),
            ),
            images=(plain_picture(row * 20),),
            speech=(noise(row, seconds + row * 0.1, WORDS[row % len(WORDS)]),),
            ended=row % 2 == 0,
        )
        for row in range(count)
    ]


def speech_generation_samples(count: int) -> list[Conversation]:
    """Answers with units for tiny's speech generator."""
    return [
        Conversation(
            id=f"u{row}",
            turns=(user("Say it."), assistant(WORDS[row % len(WORDS)])),
            units=(tuple((row + step) % 20 for step in range(4)),),
        )
        for row in range(count)
    ]


def write_data(folder: Path, conversations: Sequence[Conversation], kind: str = "instruct", shard: int = 6) -> Path:
    """Writes a data set in shards of the given number of samples. Returns its folder."""
    parts = [conversations[at : at + shard] for at in range(0, len(conversations), shard)]
    shards = tuple(write_shard(folder, number, part) for number, part in enumerate(parts))
    write_manifest(folder, Manifest(kind=kind, name=folder.name, seed=0, versions={"pyarrow": "26"}, shards=shards))
    return folder


def options(stage: str, data: Path, out: Path, *, steps: int = 8, **changed: Any) -> StageOptions:
    """Options of a run of preset tiny without evaluation, in float32, that logs every step."""
    fields: dict[str, Any] = {
        "preset": "tiny",
        "log_every": 1,
        "save_every": 3,
        "bfloat16": False,
    } | changed
    return StageOptions(
        name=stage,
        hyperparameters=replace(stage_of("tiny", stage), **(fields.pop("hyperparameters", {}) | {"steps": steps})),
        data=(Source(data),),
        out=out,
        **fields,
    )


def run(stage: str, data: Path, out: Path, **changed: Any) -> list[dict[str, float]]:
    """Runs a stage. Returns the lines of its log."""
    return StageRun(options(stage, data, out, **changed)).run()


def losses(out: Path) -> list[dict[str, float]]:
    """The lines of a run's log."""
    return read_losses(out / LOSSES_FILE)


def trained_tensors(out: Path) -> dict[str, Tensor]:
    """The tensors of a run's last checkpoint and of all parts that it wrote."""
    last = max((out / CHECKPOINTS).iterdir(), key=lambda path: int(path.name.rsplit("-", 1)[1]))
    parts = [*out.glob("*.safetensors"), *out.glob("adapters/*/*.safetensors"), last / "trained.safetensors"]
    return {f"{path.name} {name}": tensor for path in parts for name, tensor in load_file(path).items()}


def assert_same_run(out: Path, expected: Path) -> None:
    """Asserts that two runs have the same losses and, to the bit, the same weights."""
    assert losses(out) == losses(expected)
    ours, theirs = trained_tensors(out), trained_tensors(expected)
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        assert torch.equal(tensor, theirs[name]), name


def plant_incomplete_checkpoint(out: Path) -> None:
    """Leaves a checkpoint as if the process had been killed while writing it."""
    incomplete = out / CHECKPOINTS / "checkpoint-12"
    incomplete.mkdir(parents=True)
    (incomplete / "trained.safetensors").write_bytes(b"\x08")
    (incomplete / "trainer_state.json").write_text("{")


def command(stage: str, data: Path, out: Path, *further: object) -> list[str]:
    """Arguments of `lyra` to train preset tiny in float32, logging every step."""
    fixed = ("--preset", "tiny", "--fp32", "--log-every", 1, "--save-every", 3, "--data", data, "--out", out)
    return ["train", stage, *map(str, fixed), *map(str, further)]


def to_examples(conversations: Sequence[Conversation]) -> list[Example]:
    """Conversations as examples of preset tiny."""
    models = load_models("tiny", None, None)
    return [
        models.maker(to_light_sample(to_row(conversation)), models.encoders.features(conversation))
        for conversation in conversations
    ]


class Processes:
    """Starts `lyra` commands as single-threaded processes, forked so that imports happen only once."""

    def __init__(self) -> None:
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(["cli.main", "model_core.training.stage_run", "tests.training_runs"])

    def start(self, arguments: Sequence[str]) -> BaseProcess:
        """Starts `lyra` with arguments as a process."""
        return self._start({}, lyra, list(arguments))

    def run(self, arguments: Sequence[str]) -> None:
        """Runs `lyra` with arguments to completion; raises if it fails."""
        finish(self.start(arguments))

    def run_together(self, count: int, target: Callable[..., object], *arguments: object) -> None:
        """Runs a process group of the given size, as torchrun starts it."""
        shared = {"WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
        ranks = ({"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(count))
        for process in [self._start(shared | rank, target, *arguments) for rank in ranks]:
            finish(process)

    def _start(self, environment: dict[str, str], target: Callable[..., object], *arguments: object) -> BaseProcess:
        process = self._context.Process(target=_in_process, args=(environment, target, *arguments))
        process.start()
        return process


def finish(process: BaseProcess) -> None:
    """Waits for a process; raises if it fails."""
    process.join(200)
    if process.is_alive():
        process.kill()
    assert process.exitcode == 0, f"exit code {process.exitcode}"


def free_port() -> int:
    """A free port."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def lyra(arguments: list[str]) -> None:
    """Runs a `lyra` command to completion."""
    app(arguments)


def _in_process(environment: dict[str, str], target: Callable[..., object], *arguments: object) -> None:
    os.environ.update(environment)
    torch.set_num_threads(1)
    target(*arguments)
