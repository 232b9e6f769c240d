"""Histograms of a data set's statistics."""

from pathlib import Path

import matplotlib.ticker
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from model_core.data.files import written_aside
from model_core.data.stats import Stats

_BINS = 40


def draw(stats: Stats, out: Path) -> None:
    """Writes `durations.png`, `tokens.png` and `modalities.png`. Raises DataError if the disk is full."""
    figure = Figure(figsize=(6, 3.4), layout="constrained")
    _histogram(figure.add_subplot(), stats.values["seconds"], "seconds of a recording")
    _save(figure, out / "durations.png")

    figure = Figure(figsize=(10, 3.4), layout="constrained")
    prompts, answers = figure.subplots(1, 2)
    _histogram(prompts, stats.values["prompt_tokens"], "text tokens before the answers")
    _histogram(answers, stats.values["answer_tokens"], "tokens of the answers")
    _save(figure, out / "tokens.png")

    figure = Figure(figsize=(6, 1.4 + 0.4 * len(stats.mix)), layout="constrained")
    axes = figure.add_subplot()
    bars = axes.barh(list(stats.mix), list(stats.mix.values()), color="C0")
    axes.bar_label(bars, [f"{count / stats.samples:.1%}" for count in stats.mix.values()], padding=3)
    axes.set(xlabel="samples", title=f"{stats.kind}: {stats.samples:,} samples")
    axes.invert_yaxis()
    axes.margins(x=0.15)
    _save(figure, out / "modalities.png")


def _histogram(axes: Axes, values: list[float], label: str) -> None:
    """Uses a logarithmic axis if the values span more than a factor of thirty."""
    axes.set(xlabel=label, ylabel="count")
    if not values:
        axes.text(0.5, 0.5, "none", ha="center", va="center", transform=axes.transAxes)
        return
    minimum, maximum = max(min(values), 0.1), max(values)
    if maximum > 30 * minimum:
        axes.hist(np.maximum(values, minimum), bins=list(np.geomspace(minimum, maximum, _BINS)))
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(matplotlib.ticker.FormatStrFormatter("%g"))
    else:
        axes.hist(values, bins=_BINS)
    axes.axvline(float(np.median(values)), color="C1", label=f"median {np.median(values):.4g}")
    axes.legend()


def _save(figure: Figure, path: Path) -> None:
    with written_aside(path) as partial:
        figure.savefig(partial, dpi=110, format="png")
