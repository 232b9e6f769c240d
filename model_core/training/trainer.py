"""Hugging Face's Trainer with our loss weighting, checkpoints and sample order.

A checkpoint contains the trained parameters (`trained.safetensors`), the optimiser, the schedule, all random states and
the Trainer's state. It is valid only with its last file, `complete`; an incomplete checkpoint is deleted.

Shapes: P parts of the loss.
"""

import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.utils.data import Sampler, SequentialSampler
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_callback import PrinterCallback
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from model_core.data.data_errors import disk_failures
from model_core.errors import CheckpointError
from model_core.training.dataset import MixtureSampler, StageDataset
from model_core.training.sharding import assign, full_tensor, gather_parameters
from model_core.training.stage_module import StageModule

TRAINED_FILE = "trained.safetensors"
COMPLETE_FILE = "complete"


class StageTrainer(Trainer):
    """Trains one stage's module.

    Args:
        module: The module to train.
        args: The Trainer's arguments.
        train: Training data.
        evaluate: Evaluation data, if any.
        collate: Makes a batch of examples.
        callbacks: Callbacks in addition to the Trainer's own.
        projector_rate: Learning rate of the projectors, relative to the learning rate.
    """

    def __init__(
        self,
        module: StageModule,
        args: TrainingArguments,
        train: StageDataset,
        evaluate: StageDataset | None,
        collate: Callable[[Sequence[Any]], dict[str, Tensor]],
        callbacks: Sequence[TrainerCallback] = (),
        projector_rate: float = 1.0,
    ) -> None:
        self.sampler = MixtureSampler(train.lengths, train.shares, global_batch(args), args.data_seed or args.seed)
        super().__init__(
            model=module,
            args=args,
            train_dataset=train,
            eval_dataset=evaluate,
            data_collator=collate,
            callbacks=[EpochOrder(self.sampler), *callbacks],
        )
        # The log and the progress bar replace its output.
        self.remove_callback(PrinterCallback)
        # `compute_loss` already weights each share of a batch: the Trainer must not divide again.
        self.loss_is_scaled_for_ga = True
        self.module = module
        self.projector_rate = projector_rate
        self._weights = torch.tensor(list(module.part_weights.values()), device=args.device)
        # For each part: the sum over the steps since the last log entry, and the number of steps that had it.
        self._sums = torch.zeros(2, len(self._weights), device=args.device)

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """The Trainer's optimiser, with a separate learning rate for the projectors."""
        made = super().create_optimizer(model)
        if self.projector_rate != 1:
            named = (self.module if model is None else model).named_parameters()
            projectors = {p for name, p in named if "projectors." in name}
            for group in list(made.param_groups):
                theirs = [p for p in group["params"] if p in projectors]
                group["params"] = [p for p in group["params"] if p not in projectors]
                if theirs:
                    made.add_param_group({**group, "params": theirs, "lr": group["lr"] * self.projector_rate})
        return made

    def get_batch_samples(
        self, epoch_iterator: Iterator[Any], num_batches: int, device: torch.device
    ) -> tuple[list[Any], Tensor]:
        """The shares of an optimiser step that this process computes, and the counts [P] of the whole batch."""
        shares = list(islice(epoch_iterator, num_batches))
        empty = torch.zeros_like(self._weights)
        totals = torch.stack([self.module.totals(share).to(device) for share in shares] or [empty]).sum(0)
        totals = self.accelerator.reduce(totals, "sum")
        self._sums[1] += totals > 0
        return shares, totals

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """These samples' contribution to the loss of the whole batch; without its counts, their own loss."""
        outputs: Mapping[str, Tensor] = model(**inputs)
        loss = outputs["loss"]
        if isinstance(num_items_in_batch, Tensor):
            shares = self.module.totals(inputs) / num_items_in_batch.clamp(min=1)
            nothing = loss.new_zeros(())
            parts = torch.stack([outputs.get(name, nothing).float() for name in self.module.part_weights]) * shares
            self._sums[0] += parts.detach()
            # Gradients and losses of the processes are averaged.
            loss = (parts * self._weights).sum() * self.args.world_size
        return (loss, outputs) if return_outputs else loss

    def prediction_step(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        prediction_loss_only: bool,
        ignore_keys: list[str] | None = None,
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """The loss of some samples; there are no other predictions."""
        with torch.no_grad(), self.compute_loss_context_manager():
            loss: Tensor = self.compute_loss(model, self._prepare_inputs(inputs))
        return loss.detach(), None, None

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Adds the means of the loss's parts since the last entry."""
        if "loss" in logs:
            sums, steps = self._sums.clone()
            sums = self.accelerator.reduce(sums, "sum")
            named = zip(self.module.part_weights, sums.tolist(), steps.tolist(), strict=True)
            logs |= {name: value / count for name, value, count in named if count}
            self._sums.zero_()
        super().log(logs, start_time)

    def gather_trained(self) -> None:
        """After the last step: gathers the parameters that FSDP sharded, on every process, for writing."""
        if self.is_fsdp_enabled:
            gather_parameters(self.module)

    def _get_train_sampler(self, train_dataset: Any = None) -> Sampler[int]:
        return self.sampler

    def _get_eval_sampler(self, eval_dataset: Any) -> Sampler[int]:
        return SequentialSampler(eval_dataset)

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Writes the trained parameters; the Trainer would gather the frozen ones too."""
        self._save(output_dir)

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        trained = ((name, p) for name, p in self.module.named_parameters() if p.requires_grad)
        tensors = {name: full_tensor(p).cpu().contiguous() for name, p in trained}
        if self.args.should_save:
            folder = Path(output_dir or str(self.args.output_dir))
            with disk_failures(folder):
                folder.mkdir(parents=True, exist_ok=True)
                save_file(tensors, folder / TRAINED_FILE)

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        folder = Path(str(self.args.output_dir)) / f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"
        with disk_failures(folder):
            super()._save_checkpoint(model, trial)
            # Every process writes its random state.
            self.accelerator.wait_for_everyone()
            if self.args.should_save:
                (folder / COMPLETE_FILE).touch()

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        load_trained(self.module, Path(resume_from_checkpoint))

    def _load_best_model(self) -> None:
        if self.is_deepspeed_enabled:
            super()._load_best_model()
        elif self.state.best_model_checkpoint:
            load_trained(self.module, Path(self.state.best_model_checkpoint))


class EpochOrder(TrainerCallback):
    """Sets the sampler's epoch: with several processes, accelerate does not do so when a run resumes."""

    def __init__(self, sampler: MixtureSampler) -> None:
        self.sampler = sampler

    def on_epoch_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Called before the first sample of an epoch, or of a resumed one, is drawn."""
        self.sampler.set_epoch(state.global_step * self.sampler.batch // len(self.sampler))


def global_batch(args: TrainingArguments) -> int:
    """Samples per optimiser step, over all processes."""
    return int(args.train_batch_size * args.gradient_accumulation_steps * args.world_size)


def last_checkpoint(folder: Path) -> Path | None:
    """The newest complete checkpoint."""
    complete = [path for path in _checkpoints(folder) if (path / COMPLETE_FILE).is_file()]
    return max(complete, key=lambda path: int(path.name.rsplit("-", 1)[1]), default=None)


def remove_incomplete(folder: Path) -> None:
    """Deletes incomplete checkpoints."""
    for path in _checkpoints(folder):
        if not (path / COMPLETE_FILE).is_file():
            shutil.rmtree(path)


def load_trained(module: nn.Module, checkpoint: Path) -> None:
    """Loads the trained parameters of a checkpoint. Raises CheckpointError if they belong to another stage."""
    learns = {name: parameter for name, parameter in module.named_parameters() if parameter.requires_grad}
    tensors = load_file(checkpoint / TRAINED_FILE)
    if missing := learns.keys() ^ tensors.keys():
        raise CheckpointError(str(checkpoint), f"belongs to another stage or preset: {min(missing)} differs")
    with torch.no_grad():
        for name, parameter in learns.items():
            assign(parameter, tensors[name])


def _checkpoints(folder: Path) -> list[Path]:
    return list(folder.glob(f"{PREFIX_CHECKPOINT_DIR}-*"))
