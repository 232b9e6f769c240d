"""Plots of the day: traffic, replicas, waiting time, GPU hours."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from bench.scaling.simulation import Outcome
from bench.scaling.traffic import Traffic

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_COLORS = {"autoscaled": "tab:blue", "fixed": "tab:gray", "joint": "tab:orange"}
_NAMES = {
    "autoscaled": "autoscaler per service (the chart)",
    "fixed": "fixed replicas",
    "joint": "one autoscaler",
}
_WINDOW_SECONDS = 600.0

Floats = npt.NDArray[np.float64]


def plot(traffic: Traffic, outcomes: Mapping[str, Outcome]) -> "Figure":
    """One figure of all runs; `outcomes` by "autoscaled", "fixed", "joint"."""
    import matplotlib.pyplot as plt

    services = list(outcomes["autoscaled"].gpu_hours)
    figure, axes = plt.subplots(len(services) + 3, 1, figsize=(10, 14), layout="constrained")
    _traffic(axes[0], traffic)
    for axis, service in zip(axes[1:], services, strict=False):
        _replicas(axis, service, outcomes)
    _waiting(axes[-2], outcomes)
    _hours(axes[-1], services, outcomes)
    for axis in axes[:-1]:
        axis.set_xlim(0, traffic.seconds / 3600)
        axis.grid(alpha=0.3)
    axes[-2].set_xlabel("hour of the day")
    return figure


def _traffic(axis: "Axes", traffic: Traffic) -> None:
    minutes = np.bincount([int(each.at // 60) for each in traffic.questions], minlength=int(traffic.seconds // 60))
    axis.fill_between(np.arange(len(minutes)) / 60, minutes, color="tab:blue", alpha=0.4, label="questions per minute")
    axis.set_ylabel("questions/min")
    beside = axis.twinx()
    heights = [each.audio_seconds / 60 for each in traffic.recordings]
    beside.vlines([each.at / 3600 for each in traffic.recordings], 0, heights, color="tab:red", lw=1.5)
    beside.set_ylabel("recordings, min", color="tab:red")
    axis.set_title("A day of traffic, by way of scaling")


def _replicas(axis: "Axes", service: str, outcomes: Mapping[str, Outcome]) -> None:
    for name, outcome in outcomes.items():
        hours = [at / 3600 for at, _ in outcome.replicas]
        counts = [replicas[service] for _, replicas in outcome.replicas]
        style: dict[str, Any] = {"ls": "--"} if name == "fixed" else {}
        axis.step(hours, counts, where="post", color=_COLORS[name], lw=1.2, **style)
    axis.set_ylim(bottom=0)
    axis.set_ylabel(f"{service.replace('-', ' ')}\nreplicas")


def _waiting(axis: "Axes", outcomes: Mapping[str, Outcome]) -> None:
    for name, outcome in outcomes.items():
        times, p95 = _windows(outcome)
        axis.plot(times, np.maximum(p95, 0.01), color=_COLORS[name], lw=1.2, label=_NAMES[name])
    axis.set_yscale("log")
    axis.set_ylabel("waiting, s\n(p95 of 10 min)")
    axis.legend(loc="upper right", fontsize=8)


def _windows(outcome: Outcome) -> tuple[Floats, Floats]:
    times, waits = (np.array(each) for each in zip(*sorted(outcome.questions), strict=True))
    window = (times // _WINDOW_SECONDS).astype(int)
    filled = np.unique(window)
    p95 = np.array([np.percentile(waits[window == each], 95) for each in filled])
    return (filled + 0.5) * _WINDOW_SECONDS / 3600, p95


def _hours(axis: "Axes", services: list[str], outcomes: Mapping[str, Outcome]) -> None:
    names = list(outcomes)
    left = np.zeros(len(names))
    for service in services:
        hours = np.array([outcomes[name].gpu_hours[service] for name in names])
        axis.barh([_NAMES[name] for name in names], hours, left=left, label=service.replace("-", " "))
        left += hours
    for row, (name, total) in enumerate(zip(names, left, strict=True)):
        axis.text(total, row, f"  {total:.0f} GPU h, waiting p95 {outcomes[name].p95():.2f} s", va="center", fontsize=8)
    axis.set_xlim(0, 1.35 * left.max())
    axis.invert_yaxis()
    axis.set_xlabel("GPU hours")
    axis.legend(fontsize=8, ncol=4, loc="upper center", bbox_to_anchor=(0.5, -0.35))
