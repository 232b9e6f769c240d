"""One run of a stage: `lyra train align|instruct|long-speech|speech-generator`, from data to trained parts.

The folder of a run contains `stage.json` (its options), `checkpoints/`, `losses.jsonl`, TensorBoard's files in `logs/`,
and at the end the trained parts, a plot and a model card. The same command resumes an interrupted run, with the losses
that an uninterrupted run would have had.
"""

import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

from torch.utils.tensorboard import SummaryWriter
from transformers import EarlyStoppingCallback, TrainerCallback, TrainerState, set_seed
from transformers.integrations.integration_utils import TensorBoardCallback
from transformers.trainer import TRAINER_STATE_NAME

from model_core.data.data_errors import disk_failures
from model_core.presets.stages import ALIGN, SPEECH_GENERATOR
from model_core.training.arguments import CHECKPOINTS, training_arguments
from model_core.training.assembly import Assembly, align_assembly, instruct_assembly
from model_core.training.dataset import StageDataset
from model_core.training.log import LOSSES_FILE, SESSIONS_FILE, Losses, Row, Sessions, read_losses
from model_core.training.options import Source, StageOptions, Start
from model_core.training.preset_models import load_models
from model_core.training.report import FinishedRun, write_report
from model_core.training.run_record import check_same_run, write_record
from model_core.training.speech_assembly import speech_assembly
from model_core.training.speech_generator import UnitDataset
from model_core.training.trainer import StageTrainer, global_batch, last_checkpoint, load_trained, remove_incomplete

LOGS = "logs"

Show = Callable[[str, int, int, str], None]


class StageRun:
    """A stage with its models and data; `run` writes its files.

    Args:
        options: Options of the run.
        show: Called with the name of a step, how much of it is done, its total, and a short remark.

    Raises:
        InvalidInput: data, preset or an option is invalid, or the folder contains another run; WeightsMissing.
    """

    def __init__(self, options: StageOptions, show: Show | None = None) -> None:
        self.options = options
        check_same_run(options)
        self.arguments = training_arguments(options)
        self.is_main = self.arguments.process_index == 0
        self.show = show if show and self.is_main else lambda step, done, total, word: None
        set_seed(options.seed)
        self.models = load_models(options.preset, options.home, options.checkpoint)
        self.train_data = self._dataset(options.data)
        self.eval_data = self._dataset(options.evaluate) if options.evaluate else None
        self.assembly = self._assemble()
        for data in filter(None, (self.train_data, self.eval_data)):
            data.leave_out(self.assembly.reject_reason)
        self.steps = self._planned_steps()
        self.arguments.max_steps = self.steps

    def run(self) -> list[Row]:
        """Trains to the end and writes everything; a finished run only writes its parts again.

        Returns:
            The rows of `losses.jsonl`.
        """
        options, checkpoints = self.options, self.options.out / CHECKPOINTS
        checkpoint = last_checkpoint(checkpoints)
        if self.is_main:
            write_record(options)
            remove_incomplete(checkpoints)
        self._prepare_data()
        if checkpoint and self._is_finished(checkpoint):
            load_trained(self.assembly.module, self._best(checkpoint))
        else:
            trainer = self.trainer(checkpoint)
            trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
            trainer.gather_trained()
        if self.is_main:
            with disk_failures(options.out):
                self.assembly.write(options.out)
                write_report(self._finished())
        self._wait()
        return read_losses(options.out / LOSSES_FILE)

    def _finished(self) -> FinishedRun:
        trained = (each for each in self.assembly.module.parameters() if each.requires_grad)
        return FinishedRun(
            options=self.options,
            train_data=self.train_data,
            eval_data=self.eval_data,
            steps=self.steps,
            parameters=sum(each.numel() for each in trained),
            encoders=self.models.encoders.name,
            processes=self.arguments.world_size,
            bfloat16=self.arguments.bf16,
        )

    def trainer(self, checkpoint: Path | None = None) -> StageTrainer:
        """The Trainer, before its first step or before it resumes from a checkpoint."""
        options = self.options
        callbacks: list[TrainerCallback] = [
            Losses(options.out / LOSSES_FILE, self._on_step),
            Sessions(options.out / SESSIONS_FILE),
        ]
        if self.is_main:
            done = TrainerState.load_from_json(str(checkpoint / TRAINER_STATE_NAME)).global_step if checkpoint else 0
            # Points after the checkpoint will be written again.
            writer = SummaryWriter(str(options.out / LOGS), purge_step=done + 1)
            callbacks.append(TensorBoardCallback(writer))  # type: ignore[no-untyped-call]
        if options.patience:
            callbacks.append(EarlyStoppingCallback(early_stopping_patience=options.patience))
        return StageTrainer(
            self.assembly.module,
            self.arguments,
            self.train_data,
            self.eval_data,
            self.assembly.collate,
            callbacks,
            projector_rate=options.hyperparameters.projector_rate,
        )

    def _dataset(self, sources: tuple[Source, ...]) -> StageDataset:
        if self.options.name == SPEECH_GENERATOR:
            return UnitDataset(sources, self.models.maker)
        return StageDataset(sources, self.models.encoders, self.models.maker, cached=self.options.cached)

    def _assemble(self) -> Assembly:
        options, stage = self.options, self.options.hyperparameters
        if isinstance(self.train_data, UnitDataset):
            return speech_assembly(self.models, options, self.train_data)
        samples = self.train_data.samples
        # A projector that no sample uses must not be written as if it were trained.
        unused = {
            "speech": not any(sample.seconds for sample in samples),
            "vision": not any(sample.images or sample.videos for sample in samples),
        }
        frozen = dict.fromkeys((*options.start.freeze, *(name for name, idle in unused.items() if idle)))
        start: Start = replace(options.start, freeze=tuple(frozen))
        if stage.objective == "embedding" and options.name == ALIGN:
            measured = self.eval_data.samples if self.eval_data else []
            return align_assembly(self.models, stage, start, [*samples, *measured])
        return instruct_assembly(self.models, stage, start)

    def _planned_steps(self) -> int:
        stage, batch = self.options.hyperparameters, global_batch(self.arguments)
        if stage.steps is not None:
            return stage.steps
        samples = sum(round(count * weight) for count, weight in self.train_data.shares)
        return math.ceil(stage.epochs * math.ceil(samples / batch))

    def _prepare_data(self) -> None:
        """Computes the encoder features, each process its share."""
        rank, world = self.arguments.process_index, self.arguments.world_size
        for data, word in ((self.train_data, "data"), (self.eval_data, "evaluation data")):
            if data:
                data.prepare(partial(self._on_features, word), rank, world)
        self._wait()

    def _is_finished(self, checkpoint: Path) -> bool:
        state = TrainerState.load_from_json(str(checkpoint / TRAINER_STATE_NAME))
        stopping = state.stateful_callbacks.get(EarlyStoppingCallback.__name__, {}).get("attributes", {})
        waited: int = stopping.get("early_stopping_patience_counter", 0)
        return state.global_step >= self.steps or 0 < self.options.patience <= waited

    def _best(self, checkpoint: Path) -> Path:
        best = TrainerState.load_from_json(str(checkpoint / TRAINER_STATE_NAME)).best_global_step
        return checkpoint.with_name(f"checkpoint-{best}") if best and self.options.patience else checkpoint

    def _wait(self) -> None:
        """Waits for all processes."""
        if self.arguments.distributed_state:
            self.arguments.distributed_state.wait_for_everyone()

    def _on_features(self, word: str, done: int, total: int) -> None:
        self.show("features", done, total, word)

    def _on_step(self, step: int, steps: int, loss: float) -> None:
        self.show(self.options.name, step, steps, "" if math.isnan(loss) else f"loss {loss:.3f}")
