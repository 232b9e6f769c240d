"""Logs of a run: `losses.jsonl`, one row for each entry of the Trainer's log, and `sessions.json`, its running times.

The losses of a run that was killed and resumed equal those of an uninterrupted one.
"""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from model_core.data.data_errors import disk_failures
from model_core.data.files import written_aside

LOSSES_FILE = "losses.jsonl"
SESSIONS_FILE = "sessions.json"

Row = dict[str, float]
OnStep = Callable[[int, int, float], None]

_TIMES = ("_runtime", "_per_second", "_preparation_time")


class Losses(TrainerCallback):
    """Writes `losses.jsonl` and reports progress.

    A run that resumes from a checkpoint drops the rows after it, so that each step has one row. A row is a mean over
    the steps since the previous row, so every checkpoint writes one.
    """

    def __init__(self, path: Path, on_step: OnStep | None = None) -> None:
        self.path = path
        self.on_step = on_step
        self._last = float("nan")

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Keeps the rows up to the step that the run resumes from."""
        if state.is_world_process_zero:
            kept = [row for row in read_losses(self.path) if row["step"] <= state.global_step]
            with written_aside(self.path) as scratch:
                scratch.write_text("".join(json.dumps(row) + "\n" for row in kept))

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> TrainerControl:
        """Reports progress, and has a row written with each checkpoint."""
        if self.on_step and state.is_world_process_zero:
            self.on_step(state.global_step, state.max_steps, self._last)
        control.should_log |= control.should_save
        return control

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **_: Any,
    ) -> None:
        """Writes a row."""
        if not state.is_world_process_zero or not logs or not {"loss", "eval_loss"} & logs.keys():
            return
        self._last = logs.get("loss", self._last)
        values = {key: value for key, value in logs.items() if not key.endswith(_TIMES) and key != "total_flos"}
        with disk_failures(self.path), self.path.open("a") as file:
            file.write(json.dumps({"step": state.global_step} | values) + "\n")


def read_losses(path: Path) -> list[Row]:
    """The rows of `losses.jsonl`; an incomplete last row is ignored."""
    rows: list[Row] = []
    for line in path.read_text().splitlines() if path.is_file() else []:
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return rows


class Sessions(TrainerCallback):
    """Writes `sessions.json`: for each start of the run, its steps up to the last checkpoint, and seconds."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._before: list[dict[str, float]] = []
        self._first, self._started = 0, 0.0

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Starts the clock."""
        self._before = [session for session in read_sessions(self.path) if session["to"] <= state.global_step]
        self._first, self._started = state.global_step, time.monotonic()

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Writes the session."""
        if state.is_world_process_zero:
            now = {"from": self._first, "to": state.global_step, "seconds": round(time.monotonic() - self._started, 2)}
            with written_aside(self.path) as scratch:
                scratch.write_text(json.dumps([*self._before, now]) + "\n")


def read_sessions(path: Path) -> list[dict[str, float]]:
    """Rows of `sessions.json`: `from` and `to` step, `seconds`."""
    return json.loads(path.read_text()) if path.is_file() else []
