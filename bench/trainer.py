"""`lyra train` compared with a minimal PyTorch loop: steps per second with the same module, batches and optimizer.

python -m bench.trainer [--preset nano] [--steps 8] [--repeats 5]

Both train on the same conversations of noise in the same order, with encoder features from the same cache. They run
alternately; results are medians over the repeats, without the first steps.
"""

import io
import tempfile
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import soundfile
import torch
from matplotlib.figure import Figure
from torch.nn.utils import clip_grad_norm_
from torch.utils.data import DataLoader
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments, get_scheduler

from bench.machine import describe
from bench.report import command_line, write
from model_core.data.conversation import Conversation, Speech, Turn
from model_core.data.shards import Manifest, write_manifest, write_shard
from model_core.language.messages import REPEAT_INSTRUCTION, Role
from model_core.presets import get_preset
from model_core.training.dataset import MixtureSampler
from model_core.training.options import Source, StageOptions, Start
from model_core.training.preset_models import stage_of
from model_core.training.stage_run import StageRun

TARGET = 0.95
WARM_UP = 2  # steps of each run
TEXT = "the quick brown fox jumps over the lazy dog and runs away"


def main() -> None:
    parser = command_line("trainer", __doc__)
    parser.add_argument("--preset", default="nano", help="nano (requires its weights) or tiny")
    parser.add_argument("--stage", default="instruct", help="align, instruct or long-speech")
    parser.add_argument("--batch", type=int, default=4, help="samples per step")
    parser.add_argument("--steps", type=int, default=8, help="measured steps of each run")
    parser.add_argument("--repeats", type=int, default=5, help="runs of each kind")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        report = measure(Path(folder), options.preset, options.stage, options.batch, options.steps, options.repeats)
    write(report, options.out, plot)
    print(f"{report['trainer']:.3f} against {report['loop']:.3f} steps/s: {report['ratio']:.3f} (target: {TARGET})")


def measure(folder: Path, preset: str, stage: str, batch: int, steps: int, repeats: int) -> dict[str, Any]:
    """Steps per second of both, measured alternately."""
    write_noise(folder / "data", stage, 4 * batch)
    shipped = get_preset(preset).shipped_parts
    hyperparameters = replace(stage_of(preset, stage), steps=WARM_UP + steps, batch=batch)

    def prepared(number: int) -> StageRun:
        options = StageOptions(
            name=stage, preset=preset, hyperparameters=hyperparameters, data=(Source(folder / "data"),),
            out=folder / f"run-{number}", save_every=10**6, log_every=10**6,
            start=Start(parts=(shipped,) if shipped and stage != "align" else ()),
        )  # fmt: skip
        run = StageRun(options)
        run.train_data.prepare()
        return run

    ways: dict[str, Callable[[StageRun], list[float]]] = {"trainer": by_trainer, "loop": by_loop}
    found: dict[str, list[float]] = {name: [] for name in ways}
    for repeat in range(repeats):
        for name in sorted(ways, reverse=bool(repeat % 2)):
            ended = ways[name](prepared(len(found["trainer"]) + len(found["loop"])))
            found[name].append(steps / (ended[-1] - ended[WARM_UP - 1]))
    rates = {name: median(values) for name, values in found.items()}
    ratio = median(ours / theirs for ours, theirs in zip(found["trainer"], found["loop"], strict=True))
    return {
        "machine": describe(),
        "preset": preset, "stage": stage, "batch": batch, "steps": steps, "repeats": repeats,
        **rates, "ratio": ratio, "target": TARGET, "samples_per_second": rates["trainer"] * batch, "runs": found,
    }  # fmt: skip


def by_trainer(run: StageRun) -> list[float]:
    """Times at which the steps of `lyra train` ended."""
    clock = Clock()
    trainer = run.trainer()
    trainer.add_callback(clock)
    trainer.train()
    return clock.ended


class Clock(TrainerCallback):
    """Records the times at which steps end."""

    def __init__(self) -> None:
        self.ended: list[float] = []

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self.ended.append(time.perf_counter())


def by_loop(run: StageRun) -> list[float]:
    """Times at which the steps of a minimal loop ended."""
    module, device = run.assembly.module.to(run.arguments.device).train(), run.arguments.device
    stage, data = run.options.hyperparameters, run.train_data
    learns = [parameter for parameter in module.parameters() if parameter.requires_grad]
    optimiser = torch.optim.AdamW(
        learns, lr=stage.learning_rate, betas=stage.betas, weight_decay=stage.weight_decay, fused=True
    )
    schedule = get_scheduler("cosine", optimiser, num_warmup_steps=1, num_training_steps=run.steps)
    sampler = MixtureSampler(data.lengths, data.shares, stage.batch, run.options.seed)
    loader = DataLoader(data, stage.batch, sampler=sampler, collate_fn=run.assembly.collate)
    ended: list[float] = []
    epoch = 0
    while len(ended) < run.steps:
        sampler.set_epoch(epoch)
        epoch += 1
        for batch in loader:
            batch = {name: values.to(device) for name, values in batch.items()}
            with torch.autocast(device.type, torch.bfloat16) if run.arguments.bf16 else nullcontext():
                loss = module(**batch)["loss"]
            loss.backward()
            clip_grad_norm_(learns, stage.clip)
            optimiser.step()
            schedule.step()
            optimiser.zero_grad()
            loss.item()
            ended.append(time.perf_counter())
            if len(ended) == run.steps:
                break
    return ended


def write_noise(folder: Path, kind: str, count: int) -> None:
    """Conversations of two to four seconds of noise."""
    rng = np.random.default_rng(0)
    made = []
    for row in range(count):
        seconds = 2 + 2 * row / count
        file = io.BytesIO()
        samples = rng.standard_normal(int(16_000 * seconds)).astype(np.float32) * 0.1
        soundfile.write(file, samples, 16_000, format="FLAC")
        turns = (
            Turn(role=Role.USER, text=f"<speech>\n{REPEAT_INSTRUCTION}"),
            Turn(role=Role.ASSISTANT, text=TEXT),
        )
        speech = (Speech(data=file.getvalue(), seconds=seconds, transcript=TEXT),)
        made.append(Conversation(id=str(row), turns=turns, speech=speech))
    shard = write_shard(folder, 0, made)
    write_manifest(folder, Manifest(kind=kind, name="noise", seed=0, shards=(shard,)))


def plot(report: dict[str, Any]) -> Figure:
    """Rate of each run, and the medians."""
    figure = Figure(figsize=(6, 3.5), layout="constrained")
    axis = figure.subplots()
    for place, name in enumerate(("loop", "trainer")):
        runs = report["runs"][name]
        axis.bar(place, report[name], width=0.6, color="tab:gray" if name == "loop" else "tab:blue", alpha=0.7)
        axis.plot([place] * len(runs), runs, "o", color="black", markersize=4)
    axis.axhline(TARGET * report["loop"], color="tab:red", linewidth=1, label=f"{TARGET:g} of the loop")
    axis.set_xticks([0, 1], ["minimal loop", "lyra train"])
    axis.set(ylabel="steps/s", title=f"{report['preset']}, {report['stage']}, batch {report['batch']}")
    axis.legend(frameon=False)
    return figure


if __name__ == "__main__":
    main()
