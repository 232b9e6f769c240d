"""Memory of each process over the longest attack."""

from typing import Any

import matplotlib.pyplot as plt
from matplotlib.figure import Figure


def memory_plot(report: dict[str, Any]) -> Figure:
    """Plots the row that was sampled longest."""
    row = max(report["rows"], key=lambda row: len(row["samples"]))
    figure, axes = plt.subplots(figsize=(9, 4.5), layout="constrained")
    minutes = [sample["seconds"] / 60 for sample in row["samples"]]
    for name in row["samples"][0]["rss_mib"]:
        axes.plot(minutes, [sample["rss_mib"][name] for sample in row["samples"]], label=name.replace("_", " "))
    axes.set(xlabel="minutes", ylabel="resident memory, MiB", title=row["what"], ylim=(0, None))
    axes.legend(fontsize="small", ncols=2)
    return figure
