"""`stage.json`: the options that identify a run, so that a later command can tell whether it continues that run."""

import hashlib
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from model_core.data.files import written_aside
from model_core.data.shards import read_manifest
from model_core.errors import InvalidInput
from model_core.training.options import Source, StageOptions

STAGE_FILE = "stage.json"
# Hyperparameters that may differ between two commands of the same run.
_MAY_CHANGE = frozenset({"steps", "epochs"})


def write_record(options: StageOptions) -> None:
    """Writes `stage.json`."""
    with written_aside(options.out / STAGE_FILE) as scratch:
        scratch.write_text(json.dumps(_record(options), indent=2) + "\n")


def check_same_run(options: StageOptions) -> None:
    """Raises InvalidInput if the folder contains a run with other options."""
    path = options.out / STAGE_FILE
    if not path.is_file():
        return
    before, now = json.loads(path.read_text()), _record(options)
    for key in now:
        old, new = before.get(key), now[key]
        if key == "hyperparameters":
            old = {name: value for name, value in (old or {}).items() if name not in _MAY_CHANGE}
            new = {name: value for name, value in new.items() if name not in _MAY_CHANGE}
            changed = [name for name in new if old.get(name) != new[name]]
            old, new = ({name: values.get(name) for name in changed} for values in (old, new))
        if old != new:
            raise InvalidInput(
                "out", f"{options.out} contains a run with another {key} ({old}, not {new}): name another folder"
            )


def data_hash(folder: Path) -> str:
    """SHA-256 over the hashes of a data set's shards."""
    manifest = read_manifest(folder)
    return hashlib.sha256("".join(shard.sha256 for shard in manifest.shards).encode()).hexdigest()


def _record(options: StageOptions) -> dict[str, Any]:
    # Evaluations draw random numbers too.
    evaluation = {"every": options.evaluate_every, "patience": options.patience} if options.evaluate else {}
    return {
        "stage": options.name,
        "preset": options.preset,
        "seed": options.seed,
        "data": [_data(source) for source in options.data],
        "evaluate": evaluation | {"data": [_data(source) for source in options.evaluate]},
        "start": {"adapter": options.start.adapter, "freeze": list(options.start.freeze)},
        "hyperparameters": json.loads(json.dumps(asdict(options.hyperparameters))),
    }


def _data(source: Source) -> dict[str, Any]:
    return {"folder": source.folder.name, "weight": source.weight, "sha256": data_hash(source.folder)}
