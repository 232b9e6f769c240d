"""One figure: users over HTTP before and after, and the peers as bars."""

from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bench.engine.stacks import AFTER, BEFORE

_BARS = {"batch": "16 requests", "stream": "one stream", "prefill": "prompt of 1,000 tokens"}


def plot(report: dict[str, Any]) -> Figure:
    """What the report holds; rows that were never measured leave their place empty."""
    rows = report["rows"]
    figure = Figure(figsize=(14, 8), layout="constrained")
    (speed, latency, first_audio), bars = figure.subplots(2, 3)
    if "users" in rows:
        by_side = rows["users"]["figures"]["users"]
        _over_users(speed, by_side, ("tokens_per_second",), "output tokens a second over HTTP")
        kinds = ("first_token_seconds", "worst_first_token_seconds")
        latency.set_yscale("log")
        _over_users(latency, by_side, kinds, "seconds to the first token")
    if "spoken" in rows:
        by_side = rows["spoken"]["figures"]["first_audio_seconds"]
        _over_users(first_audio, by_side, ("median", "worst"), "seconds to the first audio of a spoken question")
    for axis, (name, title) in zip(bars, _BARS.items(), strict=True):
        if name in rows:
            _peers(axis, rows[name]["figures"], f"{title}, tokens a second")
    machine = next(iter(rows.values()))["machine"]
    figure.suptitle(f"preset nano, {machine['cores']} cores of {machine['processor']}", fontsize=10)
    return figure


def _over_users(axis: Axes, by_side: dict[str, Any], kinds: tuple[str, ...], title: str) -> None:
    """A line for each side and kind; the second kind is the worst, dashed."""
    for side, color in ((BEFORE, "C7"), (AFTER, "C0")):
        if side not in by_side:
            continue
        counts = [int(count) for count in by_side[side]]
        for kind, style in zip(kinds, ("o-", "o--"), strict=False):
            found = [by_side[side][str(count)][kind] for count in counts]
            medians = [each["median"] for each in found]
            axis.plot(counts, medians, style, color=color, label=f"{side}{', worst' if style == 'o--' else ''}")
            axis.fill_between(
                counts, [each["min"] for each in found], [each["max"] for each in found], color=color, alpha=0.2
            )
    if axis.get_yscale() == "linear":
        axis.set_ylim(bottom=0)
    axis.set_xscale("log", base=2)
    axis.set_xticks(counts, [str(count) for count in counts])
    axis.set_xlabel("users at once")
    axis.set_title(title, fontsize=10)
    axis.legend()


def _peers(axis: Axes, figures: dict[str, Any], title: str) -> None:
    rates = figures["tokens_per_second"]
    names = list(reversed(rates))
    labels = [name.replace("transformers ", "transformers\n") for name in names]
    medians = [rates[name]["median"] for name in names]
    low = [rates[name]["median"] - rates[name]["min"] for name in names]
    high = [rates[name]["max"] - rates[name]["median"] for name in names]
    colors = ["C0" if name.startswith("ours") else "C7" for name in names]
    bars = axis.barh(labels, medians, xerr=[low, high], color=colors)
    axis.bar_label(bars, [f"{value:,.0f}" for value in medians], padding=3, fontsize=8)
    if floor := figures.get("floor"):
        axis.axvline(floor["tokens_per_second"], color="C3", linestyle=":", label=f"memory allows, {figures['dtype']}")
        axis.axvline(floor["tokens_per_second_stored"], color="C1", linestyle=":", label="memory allows, Q4_1")
        axis.legend(fontsize=7)
    axis.margins(x=0.15)
    axis.set_title(title, fontsize=10)
    axis.tick_params(axis="y", labelsize=8)
