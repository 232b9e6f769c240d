"""The report of a finished run, beside its trained parts: a plot of its losses and a model card."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from typing import Any

import torch
from huggingface_hub import ModelCardData
from matplotlib.figure import Figure

from model_core.data.files import written_aside
from model_core.data.shards import read_manifest
from model_core.machine import describe
from model_core.presets import get_preset
from model_core.presets.stages import ALIGN, INSTRUCT, LONG_SPEECH, SPEECH_GENERATOR
from model_core.training.dataset import StageDataset
from model_core.training.log import LOSSES_FILE, SESSIONS_FILE, Row, read_losses, read_sessions
from model_core.training.options import Source, StageOptions
from model_core.training.run_record import data_hash

PLOT_FILE = "losses.png"
CARD_FILE = "README.md"

_WHAT = {
    ALIGN: "Projectors that map the frozen encoders' features into the embeddings of the frozen language model",
    INSTRUCT: "Projectors and a LoRA adapter for speech, image and text instructions; the base model is frozen",
    LONG_SPEECH: "A LoRA adapter with its own speech projector for long recordings; the base model is frozen",
    SPEECH_GENERATOR: "A speech generator: a voice's units from the frozen language model's hidden states",
}
_LEADING = ("step", "loss", "eval_loss", "grad_norm", "learning_rate", "epoch")


@dataclass(frozen=True, slots=True, kw_only=True)
class FinishedRun:
    """What the report says about a run.

    Attributes:
        options: Options of the run.
        train_data: Data that it was trained on.
        eval_data: Data that it was evaluated on, if any.
        steps: Planned number of steps.
        parameters: Number of trained parameters.
        encoders: Name of the encoders.
        processes: Number of processes.
        bfloat16: Whether it was trained in bfloat16.
    """

    options: StageOptions
    train_data: StageDataset
    eval_data: StageDataset | None
    steps: int
    parameters: int
    encoders: str
    processes: int
    bfloat16: bool


def write_report(run: FinishedRun) -> None:
    """Writes `losses.png` and `README.md` to the folder of a run."""
    out = run.options.out
    rows = read_losses(out / LOSSES_FILE)
    with written_aside(out / PLOT_FILE) as scratch:
        loss_plot(rows, f"{run.options.preset}: {run.options.name}").savefig(scratch, dpi=130, format="png")
    with written_aside(out / CARD_FILE) as scratch:
        scratch.write_text(model_card(run, rows), encoding="utf-8")


def loss_plot(rows: Sequence[Row], title: str) -> Figure:
    """Training loss and its parts, evaluation loss, and learning rate, by step."""
    figure = Figure(figsize=(9, 5.5), layout="constrained")
    losses, rate = figure.subplots(2, 1, sharex=True, height_ratios=(4, 1))
    parts = dict.fromkeys(key for row in rows for key in row if key not in _LEADING)
    single = len(parts) == 1
    for name in ("loss", *(() if single else parts)):
        steps, values = _series(rows, name)
        style = {"color": "black", "linewidth": 1.8} if name == "loss" else {"linewidth": 1.1, "alpha": 0.85}
        label = next(iter(parts)) if single else name
        losses.plot(steps, values, label=label.replace("_", " "), **style)
    steps, values = _series(rows, "eval_loss")
    if steps:
        losses.plot(steps, values, "o--", color="tab:red", markersize=4, linewidth=1.1, label="evaluation")
        best = min(range(len(values)), key=values.__getitem__)
        losses.annotate(f"{values[best]:.3f}", (steps[best], values[best]), (0, 8), textcoords="offset points")
    losses.set(title=title, ylabel="loss", ylim=(0, None))
    losses.legend(frameon=False)
    rate.plot(*_series(rows, "learning_rate"), color="tab:gray", linewidth=1.2)
    rate.set(xlabel="step", ylabel="learning rate", ylim=(0, None))
    rate.ticklabel_format(axis="y", style="sci", scilimits=(0, 0))
    for axis in (losses, rate):
        axis.grid(alpha=0.25)
        axis.spines[["top", "right"]].set_visible(False)
    return figure


def model_card(run: FinishedRun, rows: Sequence[Row]) -> str:
    """A model card in Hugging Face's format: YAML metadata, then Markdown."""
    options, stage = run.options, run.options.hyperparameters
    head = ModelCardData(
        license=get_preset(options.preset).licence,
        library_name="peft" if stage.adapter else "lyra",
        tags=["lyra", "speech", "multimodal", options.name, options.preset],
        language=["en"],
    )
    sections = [
        f"---\n{head.to_yaml()}\n---\n\n# Lyra {options.preset}: {options.name}",
        f"{_WHAT[options.name]}. {run.parameters:,} parameters were trained. Encoders: {run.encoders}.",
        f"![Losses](./{PLOT_FILE})",
        "## Training\n\n" + _training_table(run, rows),
        "## Data\n\n" + _data_table(options.data, run.train_data),
    ]
    if run.eval_data:
        sections.append("## Evaluation data\n\n" + _data_table(options.evaluate, run.eval_data))
    hyperparameters = _flat(asdict(stage)) | {"seed": options.seed, "bfloat16": run.bfloat16}
    if stage.steps is not None:
        del hyperparameters["epochs"]
    sections += [
        "## Hyperparameters\n\n" + _table(("name", "value"), hyperparameters.items()),
        "## Machine\n\n" + _table(("name", "value"), _machine().items()),
        "## Limitations\n\n" + _limitations(run),
    ]
    if options.command:
        sections.append(f"## Command\n\n```\n{options.command}\n```")
    return "\n\n".join(sections) + "\n"


def _training_table(run: FinishedRun, rows: Sequence[Row]) -> str:
    steps, losses = _series(rows, "loss")
    measured_at, measured = _series(rows, "eval_loss")
    sessions = read_sessions(run.options.out / SESSIONS_FILE)
    lines: list[tuple[str, object]] = [
        ("steps", f"{int(rows[-1]['step']) if rows else 0:,} of {run.steps:,}"),
        ("epochs", f"{rows[-1].get('epoch', 0):.2f}" if rows else "0"),
        ("time", f"{sum(session['seconds'] for session in sessions) / 3600:.2f} h, in {len(sessions)} sessions"),
        ("processes", run.processes),
    ]
    if seconds := sum(session["seconds"] for session in sessions):
        done = sum(session["to"] - session["from"] for session in sessions)
        lines.append(
            ("samples per second", f"{done * run.options.hyperparameters.batch / seconds:.3g}, including evaluation")
        )
    if losses:
        lowest = min(range(len(losses)), key=losses.__getitem__)
        lines.append(("loss, first and last", f"{losses[0]:.4f}, {losses[-1]:.4f}"))
        lines.append(("loss, lowest", f"{losses[lowest]:.4f} at step {steps[lowest]:,}"))
    if measured:
        best = min(range(len(measured)), key=measured.__getitem__)
        lines.append(("evaluation loss, first and last", f"{measured[0]:.4f}, {measured[-1]:.4f}"))
        lines.append(("evaluation loss, lowest", f"{measured[best]:.4f} at step {measured_at[best]:,}"))
        if run.options.patience:
            lines.append(("weights", f"from step {measured_at[best]:,}"))
    return _table(("name", "value"), lines)


def _data_table(sources: Sequence[Source], data: StageDataset) -> str:
    rows = []
    for source in sources:
        manifest = read_manifest(source.folder)
        mix = ", ".join(f"{name} {count:,}" for name, count in manifest.mix.items())
        hours, digest = f"{manifest.seconds / 3600:.2f}", f"`{data_hash(source.folder)[:16]}`"
        rows.append((manifest.name, manifest.kind, source.weight, f"{manifest.samples:,}", mix, hours, digest))
    table = _table(("data set", "kind", "weight", "samples", "modalities", "hours", "SHA-256 of shards"), rows)
    versions = {name: made for source in sources for name, made in read_manifest(source.folder).versions.items()}
    if versions:
        table += "\n\nBuilt with " + ", ".join(f"{name} {made}" for name, made in sorted(versions.items())) + "."
    if data.left_out:
        reasons = ", ".join(f"{count:,} {reason}" for reason, count in sorted(data.left_out.items()))
        table += f"\n\nExcluded: {reasons}."
    return table


def _limitations(run: FinishedRun) -> str:
    stage = run.options.hyperparameters
    limits = [
        "These parts work only with the models named above, whose licences apply to their output.",
        "Only the kinds of samples, voices and languages in the training data were evaluated here.",
        "Losses show how well the parts fit such data, not how good the answers are: `lyra eval` measures that.",
    ]
    if stage.objective == "language":
        limits.append(f"No sample was longer than {stage.context:,} positions.")
    return "\n".join(f"- {limit}" for limit in limits)


def _machine() -> dict[str, object]:
    machine = {name: value for name, value in describe().items() if name not in ("load_before", "libraries")}
    if torch.cuda.is_available():
        machine["GPU"] = torch.cuda.get_device_name()
    return machine | {name: version(name) for name in ("torch", "transformers", "accelerate", "peft")}


def _series(rows: Sequence[Row], name: str) -> tuple[list[int], list[float]]:
    found = [(int(row["step"]), row[name]) for row in rows if math.isfinite(row.get(name, math.nan))]
    return [step for step, _ in found], [value for _, value in found]


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, object]:
    flat: dict[str, object] = {}
    for name, value in values.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return {name: value for name, value in flat.items() if value is not None}


def _table(head: Sequence[str], rows: Any) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)
