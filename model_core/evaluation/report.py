"""The report of a benchmark: a folder with `result.json`, `result.md` and plots."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from model_core.evaluation.manifest import Result
from model_core.machine import describe

Draw = Callable[[Path], None]
"""Draws a plot to a file."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """A titled table; cells are strings or numbers."""

    title: str
    headings: tuple[str, ...]
    rows: tuple[tuple[Any, ...], ...]

    def markdown(self) -> str:
        lines = [self.headings, ("---",) * len(self.headings), *self.rows]
        cells = [" | ".join(_cell(cell) for cell in line) for line in lines]
        return f"**{self.title}**\n\n" + "\n".join(f"| {line} |" for line in cells)


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """The outcome of a benchmark.

    Attributes:
        result: The metric's value.
        tables: Breakdowns of it.
        plots: Plots by file name.
    """

    result: Result
    tables: tuple[Table, ...] = ()
    plots: Mapping[str, Draw] = field(default_factory=dict)


def write_report(folder: Path, report: Report, command: Sequence[str], notes: str = "") -> None:
    """Writes the files of a report, each atomically.

    Args:
        folder: Created if missing.
        report: The outcome.
        command: The command line.
        notes: A paragraph for the Markdown file.
    """
    folder.mkdir(parents=True, exist_ok=True)
    result, machine = report.result, describe()
    whole = {
        "metric": result.metric,
        "value": result.value,
        "count": result.count,
        **result.subject,
        "details": result.details,
        "tables": [asdict(table) for table in report.tables],
        "command": list(command),
        "machine": machine,
    }
    for name, draw in report.plots.items():
        draw(folder / name)
    write_text(folder / "result.md", _markdown(report, command, machine, notes))
    write_text(folder / "result.json", json.dumps(whole, indent=2, ensure_ascii=False) + "\n")


def write_text(path: Path, text: str) -> None:
    """Writes a file atomically."""
    part = path.with_name(path.name + ".part")
    part.write_text(text, encoding="utf-8")
    part.replace(path)


def share_table(title: str, heading: str, scores: Mapping[str, Sequence[float]]) -> Table:
    """The mean score of each class, in percent, and its number of samples."""
    rows = tuple((name, 100 * float(np.mean(values)), len(values)) for name, values in scores.items())
    return Table(title=title, headings=(heading, "%", "questions"), rows=rows)


def bar_chart(table: Table) -> Draw:
    """A bar chart of a table's second column, labelled by its first."""

    def draw(path: Path) -> None:
        figure, axes = _canvas((6.4, 1.2 + 0.36 * len(table.rows)))
        names, values = [str(row[0]) for row in table.rows], [float(row[1]) for row in table.rows]
        bars = axes.barh(range(len(names)), values, color="#3b6ea5")
        axes.bar_label(bars, [f"{value:.1f}" for value in values], padding=3)
        axes.set_yticks(range(len(names)), names)
        axes.invert_yaxis()
        axes.set_xlabel(table.headings[1])
        axes.set_title(table.title)
        axes.margins(x=0.12)
        figure.savefig(path, dpi=120, format="png")

    return draw


def heat_map(
    title: str, grid: np.ndarray, rows: Sequence[str], columns: Sequence[str], labels: tuple[str, str]
) -> Draw:
    """A heat map of fractions from 0 to 1, [rows, columns]; NaN cells stay blank."""

    def draw(path: Path) -> None:
        figure, axes = _canvas((2.2 + 0.9 * len(columns), 1.8 + 0.5 * len(rows)))
        image = axes.imshow(grid, cmap="RdYlGn", vmin=0, vmax=1, aspect="auto")
        axes.set_xticks(range(len(columns)), columns)
        axes.set_yticks(range(len(rows)), rows)
        axes.set_ylabel(labels[0])
        axes.set_xlabel(labels[1])
        axes.set_title(title)
        for (row, column), value in np.ndenumerate(grid):
            if not np.isnan(value):
                axes.text(column, row, f"{100 * value:.0f}", ha="center", va="center")
        figure.colorbar(image, ax=axes)
        figure.savefig(path, dpi=120, format="png")

    return draw


def _canvas(size: tuple[float, float]) -> Any:
    """A figure without a GUI backend, and its axes."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.add_subplot()


def _markdown(report: Report, command: Sequence[str], machine: dict[str, Any], notes: str) -> str:
    result = report.result
    measured = ", ".join(f"{name} {value}" for name, value in result.subject.items())
    figures = {"metric": result.metric, "value": result.value, "count": result.count}
    figures |= {name: value for name, value in result.details.items() if not isinstance(value, dict | list)}
    head = Table(title=f"{result.metric} of {measured}", headings=("figure", "value"), rows=tuple(figures.items()))
    pictures = [f"![{Path(name).stem}]({name})" for name in report.plots]
    libraries = ", ".join(f"{name} {version}" for name, version in machine["libraries"].items())
    where = (
        f"Measured by `{' '.join(command)}` on {machine['cores']} cores ({machine['processor']}, "
        f"{machine['memory_gib']} GiB); Python {machine['python']}, {libraries}."
    )
    blocks = [head.markdown(), notes, *(table.markdown() for table in report.tables), *pictures, where]
    return "\n\n".join(block for block in blocks if block) + "\n"


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.4g}" if isinstance(value, float) else str(value).replace("|", "\\|").replace("\n", " ")
