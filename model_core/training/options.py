"""What a run of a stage is asked for, and what of it makes it this run and no other."""

import hashlib
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from model_core.data.files import written_aside
from model_core.data.shards import read_manifest
from model_core.errors import InvalidInput
from model_core.presets.stages import TrainingStage
from model_core.training.assembly import Start
from model_core.training.dataset import Source

STAGE_FILE = "stage.json"
# What may change from one call to the next; all else would make another run of it.
_FREE = frozenset({"steps", "epochs"})


@dataclass(frozen=True, slots=True, kw_only=True)
class StageOptions:
    """What a run is asked for.

    Attributes:
        name: Of the stage.
        preset: Whose models are trained.
        hyperparameters: Of the stage, as the preset has them or changed.
        data: Folders that `lyra data build` or `filter` made, with weights.
        out: Folder of the run.
        home: Where weights are; None for the default.
        checkpoint: Folder that presets of the published method run.
        start: What is trained further.
        evaluate: Data whose loss is measured every `evaluate_every` steps.
        patience: Measurements without a better one after which the run stops, and the best weights are those written;
            0 for never. A checkpoint is then written at each measurement.
        device_batch: Samples that a process takes at a time; the rest of a batch is accumulated. None for all of it.
        bfloat16: Compute in bfloat16; None for where the processor is fast at it.
        checkpointing: Forget activations and compute them again backwards.
        cached: Keep encoder features beside the data.
        workers: Processes that prepare batches beside each training process.
        seed: Of everything.
        save_every, log_every: Steps.
        deepspeed: DeepSpeed's JSON configuration.
        fsdp: Of `full_shard`, `shard_grad_op`, `offload`, or a JSON file with what the Trainer takes
            as `fsdp_config`; empty for none.
        command: The command line that asked for it, for the model card.
    """

    name: str
    preset: str
    hyperparameters: TrainingStage
    data: tuple[Source, ...]
    out: Path
    home: Path | None = None
    checkpoint: Path | None = None
    start: Start = field(default_factory=Start)
    evaluate: tuple[Source, ...] = ()
    evaluate_every: int = 200
    patience: int = 0
    device_batch: int | None = None
    bfloat16: bool | None = None
    checkpointing: bool = False
    cached: bool = True
    workers: int = 0
    seed: int = 0
    save_every: int = 100
    log_every: int = 20
    deepspeed: Path | None = None
    fsdp: str = ""
    command: str = ""

    def __post_init__(self) -> None:
        if not self.data:
            raise InvalidInput("data", "no folder to learn from is given")
        if self.patience and not self.evaluate:
            raise InvalidInput("patience", "there is nothing to measure: name data with --evaluate")


def write_record(options: StageOptions) -> None:
    """Writes `stage.json`, by which a later call knows the run."""
    with written_aside(options.out / STAGE_FILE) as scratch:
        scratch.write_text(json.dumps(_record(options), indent=2) + "\n")


def check_same_run(options: StageOptions) -> None:
    """Raises InvalidInput where the folder holds a run that was asked for otherwise."""
    path = options.out / STAGE_FILE
    if not path.is_file():
        return
    before, now = json.loads(path.read_text()), _record(options)
    for key in now:
        old, new = before.get(key), now[key]
        if key == "hyperparameters":
            old = {name: value for name, value in (old or {}).items() if name not in _FREE}
            new = {name: value for name, value in new.items() if name not in _FREE}
            changed = [name for name in new if old.get(name) != new[name]]
            old, new = ({name: values.get(name) for name in changed} for values in (old, new))
        if old != new:
            raise InvalidInput(
                "out", f"{options.out} holds a run with another {key} ({old}, not {new}): name another folder"
            )


def _record(options: StageOptions) -> dict[str, Any]:
    # Measurements draw random numbers too.
    measured = {"every": options.evaluate_every, "patience": options.patience} if options.evaluate else {}
    return {
        "stage": options.name,
        "preset": options.preset,
        "seed": options.seed,
        "data": [_data(source) for source in options.data],
        "evaluate": measured | {"data": [_data(source) for source in options.evaluate]},
        "start": {"adapter": options.start.adapter, "freeze": list(options.start.freeze)},
        "hyperparameters": json.loads(json.dumps(asdict(options.hyperparameters))),
    }


def _data(source: Source) -> dict[str, Any]:
    return {"folder": source.folder.name, "weight": source.weight, "sha256": data_hash(source.folder)}


def data_hash(folder: Path) -> str:
    """SHA-256 over the hashes of a data set's shards."""
    manifest = read_manifest(folder)
    return hashlib.sha256("".join(shard.sha256 for shard in manifest.shards).encode()).hexdigest()
