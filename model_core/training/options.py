"""Options of a training run. Fields with `help` in their metadata are flags of `lyra train` (`cli/dataclass_flags.py`).

This module imports neither torch nor data libraries, so that the help of `lyra train` stays fast.
"""

from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from model_core.errors import InvalidInput

if TYPE_CHECKING:
    from model_core.presets.stages import TrainingStage


@dataclass(frozen=True, slots=True)
class Source:
    """A data set and how many times an epoch passes over it; with 0.5, each epoch uses another half.

    Raises:
        InvalidInput: the weight is not greater than 0.
    """

    folder: Path
    weight: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.weight < float("inf"):
            raise InvalidInput("weight", f"{self.weight:g} of {self.folder} is not greater than 0")

    @classmethod
    def parse(cls, text: str) -> "Source":
        """Reads `FOLDER` or `FOLDER:WEIGHT`. Raises InvalidInput."""
        folder, _, weight = text.rpartition(":")
        if not folder or Path(text).is_dir():
            return cls(Path(text))
        try:
            number = float(weight)
        except ValueError as error:
            raise InvalidInput("data", f"{text}: {weight!r} is not a weight; write FOLDER or FOLDER:WEIGHT") from error
        return cls(Path(folder), number)


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """The weights a stage starts from.

    Attributes:
        parts: Folders of trained parts; later ones take precedence. Projectors found in none of them start untrained.
        adapter: Adapter in those folders whose weights the new one starts from; empty for the one of the same name, if
            there is one.
        freeze: Projectors that are not trained: `speech`, `vision`.
    """

    parts: tuple[Path, ...] = field(
        default=(),
        metadata={
            "flag": "--start",
            "exists": True,
            "file_okay": False,
            "help": "Folder of trained parts to start from. May be repeated; later ones take precedence.",
        },
    )
    adapter: str = field(
        default="",
        metadata={
            "flag": "--start-adapter",
            "help": "Adapter in --start whose weights the new one starts from; by default that of the same name.",
        },
    )
    freeze: tuple[str, ...] = field(
        default=(), metadata={"help": "Projector to freeze: speech or vision. May be repeated."}
    )

    def find(self, *names: str) -> Path | None:
        """The path of the first of these files that a folder of `parts` contains."""
        return next(
            (path for name in names for parts in reversed(self.parts) if (path := parts / name).is_file()), None
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class HyperparameterOverrides:
    """Changes to a preset's TrainingStage; None, or an empty name, keeps the preset's value.

    Fields are named as in TrainingStage; those with `lora` or `extraction` in their metadata belong to the parts of it
    that have these names.
    """

    adapter: str = field(default="", metadata={"help": "Name of the trained adapter; by default that of the stage."})
    steps: int | None = field(default=None, metadata={"min": 1, "help": "Optimizer steps, instead of epochs."})
    epochs: float | None = field(default=None, metadata={"min": 0.001, "help": "Number of passes over the data."})
    batch: int | None = field(default=None, metadata={"min": 1, "help": "Global batch size of an optimizer step."})
    learning_rate: float | None = field(default=None, metadata={"min": 0.0, "help": "Peak learning rate."})
    projector_rate: float | None = field(
        default=None,
        metadata={"min": 0.0, "help": "Learning rate of the projectors relative to --learning-rate."},
    )
    rank: int | None = field(
        default=None, metadata={"part": "lora", "flag": "--lora-rank", "min": 1, "help": "LoRA rank of the adapter."}
    )
    alpha: float | None = field(
        default=None,
        metadata={
            "part": "lora",
            "flag": "--lora-alpha",
            "min": 0.0,
            "help": "LoRA alpha; the adapter is scaled by alpha / rank.",
        },
    )
    regularizer: float | None = field(
        default=None, metadata={"min": 0.0, "help": "Weight of the regularizer; 0 turns it off."}
    )
    blocks: int | None = field(
        default=None,
        metadata={"part": "extraction", "min": 1, "help": "Blocks of layers; context tokens are dropped between them."},
    )
    keep_rate: float | None = field(
        default=None,
        metadata={
            "part": "extraction",
            "min": 0.01,
            "max": 1.0,
            "help": "Share of context tokens kept after each block but the last.",
        },
    )
    context: int | None = field(
        default=None,
        metadata={
            "flag": "--context-length",
            "min": 16,
            "help": "Maximum tokens of a sample; longer ones are excluded.",
        },
    )

    def apply_to(self, stage: "TrainingStage") -> "TrainingStage":
        """The stage with these changes.

        Raises:
            InvalidInput: a LoRA rank or alpha is given for a stage without an adapter.
        """
        from model_core.language.extractor import ExtractionConfig

        changed: dict[str, dict[str, Any]] = {"": {}, "lora": {}, "extraction": {}}
        for each in fields(self):
            if (value := getattr(self, each.name)) not in (None, ""):
                changed[each.metadata.get("part", "")][each.name] = value
        if changed["lora"]:
            if stage.lora is None:
                raise InvalidInput("lora", "this stage has no adapter, so no rank or alpha")
            changed[""]["lora"] = replace(stage.lora, **changed["lora"])
        if changed["extraction"]:
            changed[""]["extraction"] = replace(stage.extraction or ExtractionConfig(), **changed["extraction"])
        return replace(stage, **changed[""])


@dataclass(frozen=True, slots=True, kw_only=True)
class StageOptions:
    """Options of a run.

    Attributes:
        name: Name of the stage.
        preset: Preset whose models are trained.
        hyperparameters: The preset's, with overrides.
        data: Folders written by `lyra data build` or `filter`, with weights.
        out: Folder of the run.
        home: Folder of weights; None for the default.
        checkpoint: Folder of a checkpoint, for presets that require one.
        start: Weights that training starts from.
        evaluate: Data for evaluation every `evaluate_every` steps.
        patience: Evaluations without improvement after which the run stops and writes its best weights; 0 never stops.
            Otherwise, a checkpoint is written at each evaluation.
        device_batch: Batch size per process and forward pass; gradients of the rest are accumulated.
        bfloat16: Whether to compute in bfloat16; None if the processor computes it fast.
        checkpointing: Recompute activations in the backward pass instead of storing them.
        cached: Cache encoder features beside the data.
        workers: Data loading processes per training process.
        seed: Seed of everything random.
        save_every, log_every: Intervals in steps.
        deepspeed: DeepSpeed's JSON configuration.
        fsdp: Any of `full_shard`, `shard_grad_op`, `offload`, `auto_wrap`, or a JSON file with what the Trainer
            accepts as `fsdp_config`; empty for none.
        command: The command line of the run, for the model card.
    """

    name: str
    hyperparameters: "TrainingStage"
    data: tuple[Source, ...] = field(
        metadata={
            "parse": Source.parse,
            "help": "Folder of a data set; FOLDER:0.5 uses half of it per epoch. May be repeated.",
        }
    )
    out: Path = field(
        metadata={"file_okay": False, "help": "Folder of the run; the same command resumes an interrupted run."}
    )
    preset: str = field(
        default="nano", metadata={"help": "Preset: nano; mini, base, pro or llama3 (require a checkpoint); tiny."}
    )
    home: Path | None = None
    checkpoint: Path | None = None
    start: Start = field(default_factory=Start)
    device_batch: int | None = field(
        default=None,
        metadata={"min": 1, "help": "Batch size per process and forward pass; gradients of the rest are accumulated."},
    )
    evaluate: tuple[Source, ...] = field(
        default=(),
        metadata={
            "parse": Source.parse,
            "help": "Data set for evaluation during training. May be repeated.",
        },
    )
    evaluate_every: int = field(default=200, metadata={"min": 1, "help": "Steps between evaluations."})
    patience: int = field(
        default=0,
        metadata={"min": 0, "help": "Stop after this many evaluations without improvement; 0 never stops."},
    )
    bfloat16: bool | None = field(
        default=None,
        metadata={
            "flag": "--bf16/--fp32",
            "help": "Number format; by default bfloat16 where it is fast.",
        },
    )
    checkpointing: bool = field(
        default=False,
        metadata={
            "flag": "--recompute",
            "help": "Recompute activations in the backward pass: less memory, more computation.",
        },
    )
    cached: bool = field(
        default=True,
        metadata={"flag": "--cache/--no-cache", "help": "Cache the encoders' features beside the data."},
    )
    workers: int = field(default=0, metadata={"min": 0, "help": "Data loading processes per training process."})
    seed: int = field(default=0, metadata={"help": "Seed of sample order, dropout and new weights."})
    save_every: int = field(default=100, metadata={"min": 1, "help": "Steps between checkpoints."})
    log_every: int = field(default=20, metadata={"min": 1, "help": "Steps between log lines."})
    deepspeed: Path | None = field(
        default=None,
        metadata={"exists": True, "dir_okay": False, "help": "DeepSpeed's JSON configuration."},
    )
    fsdp: str = field(
        default="", metadata={"help": "As for Hugging Face's Trainer, for example 'full_shard auto_wrap'."}
    )
    command: str = ""

    def __post_init__(self) -> None:
        if not self.data:
            raise InvalidInput("data", "no training data is given")
        if self.patience and not self.evaluate:
            raise InvalidInput("patience", "requires evaluation data: --evaluate")
