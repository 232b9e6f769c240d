"""What every training stage shares: a loop that logs, shows progress, checkpoints and resumes."""

import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor, nn

# Batches whose samples are sorted by length together.
_POOL = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """Steps, learning rates and pace of a stage.

    Args:
        steps: Optimiser steps.
        learning_rate: Highest rate; reached after `warmup` steps, then falls to a twentieth along a cosine.
        warmup: Steps.
        clip: Largest gradient norm.
        log_every: Steps between lines of the log.
        save_every: Steps between checkpoints.
    """

    steps: int
    learning_rate: float
    warmup: int = 50
    clip: float = 1.0
    log_every: int = 20
    save_every: int = 100

    def factor(self, step: int) -> float:
        """Share of the highest learning rate at a step."""
        if step < self.warmup:
            return (step + 1) / self.warmup
        progress = min((step - self.warmup) / max(self.steps - self.warmup, 1), 1.0)
        return 0.05 + 0.95 * (1 + math.cos(math.pi * progress)) / 2


def train(
    stage: str,
    modules: nn.ModuleDict,
    batch_loss: Callable[[int], Tensor],
    schedule: Schedule,
    run: Path,
    on_step: Callable[[str, int, int, float], None] | None = None,
) -> None:
    """Trains the parameters that want gradients; goes on from the last checkpoint of the stage in `run`.

    Args:
        stage: Name for the log and the checkpoint.
        modules: What is trained.
        batch_loss: Loss of the batch of a step; the step alone decides on the batch, so that resuming repeats none.
        schedule: Steps and learning rates.
        run: Folder with `<stage>.pt` and `<stage>.jsonl`.
        on_step: Called with stage, steps done, steps in all and the mean loss of late.
    """
    run.mkdir(parents=True, exist_ok=True)
    parameters = {name: p for name, p in modules.named_parameters() if p.requires_grad}
    optimizer = torch.optim.AdamW(parameters.values(), schedule.learning_rate, betas=(0.9, 0.98), weight_decay=0.01)
    rate = torch.optim.lr_scheduler.LambdaLR(optimizer, schedule.factor)
    start = _resume(run / f"{stage}.pt", parameters, optimizer, rate)
    losses: list[float] = []
    began = time.monotonic()
    for step in range(start, schedule.steps):
        torch.manual_seed(step)
        with torch.autocast("cpu", torch.bfloat16):
            loss = batch_loss(step)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(parameters.values(), schedule.clip)
        optimizer.step()
        optimizer.zero_grad()
        rate.step()
        losses.append(loss.item())
        recent = sum(losses[-schedule.log_every :]) / len(losses[-schedule.log_every :])
        if on_step:
            on_step(stage, step + 1, schedule.steps, recent)
        if (step + 1) % schedule.log_every == 0:
            seconds = round(time.monotonic() - began, 1)
            _log(run / f"{stage}.jsonl", {"step": step + 1, "loss": round(recent, 4), "seconds": seconds})
        if (step + 1) % schedule.save_every == 0 or step + 1 == schedule.steps:
            _save(run / f"{stage}.pt", step + 1, parameters, optimizer, rate)


def _log(path: Path, row: dict[str, float]) -> None:
    with path.open("a") as file:
        file.write(json.dumps(row) + "\n")


def _save(
    path: Path,
    step: int,
    parameters: dict[str, nn.Parameter],
    optimizer: torch.optim.Optimizer,
    rate: torch.optim.lr_scheduler.LambdaLR,
) -> None:
    state = {
        "step": step,
        "parameters": {name: p.detach() for name, p in parameters.items()},
        "optimizer": optimizer.state_dict(),
        "rate": rate.state_dict(),
    }
    scratch = path.with_suffix(".part")
    torch.save(state, scratch)
    scratch.replace(path)


def _resume(
    path: Path,
    parameters: dict[str, nn.Parameter],
    optimizer: torch.optim.Optimizer,
    rate: torch.optim.lr_scheduler.LambdaLR,
) -> int:
    if not path.exists():
        return 0
    state = torch.load(path, weights_only=True)
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(state["parameters"][name])
    optimizer.load_state_dict(state["optimizer"])
    rate.load_state_dict(state["rate"])
    step: int = state["step"]
    return step


def batches_of(count: int, size: int, seed: int, lengths: Sequence[int] | None = None) -> Callable[[int], list[int]]:
    """Indices of the samples of a step: every epoch shuffles all `count` samples by `seed` and its number.

    With `lengths`, samples of like length share a batch, so that little is computed on padding.
    """
    per_epoch = max(count // size, 1)

    @lru_cache(maxsize=1)
    def epoch_batches(epoch: int) -> list[list[int]]:
        generator = torch.Generator().manual_seed(seed + epoch)
        order = torch.randperm(count, generator=generator).tolist()
        if lengths is not None:
            pools = [order[at : at + _POOL * size] for at in range(0, count, _POOL * size)]
            order = [index for pool in pools for index in sorted(pool, key=lengths.__getitem__)]
        batches = [order[at : at + size] for at in range(0, per_epoch * size, size)]
        return [batches[row] for row in torch.randperm(per_epoch, generator=generator).tolist()]

    return lambda step: epoch_batches(step // per_epoch)[step % per_epoch]
