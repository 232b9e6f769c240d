"""Shared by the benchmarks: command line, results as JSON, plot."""

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

RESULTS = Path(__file__).parent / "results"


def command_line(name: str, description: str) -> argparse.ArgumentParser:
    """A parser with `--out` for `python -m bench.NAME`, described by the first line of `description`."""
    parser = argparse.ArgumentParser(prog=f"python -m bench.{name}", description=description.splitlines()[0])
    parser.add_argument("--out", type=Path, default=RESULTS / f"{name}.json", help="file for the results")
    return parser


def write(report: dict[str, Any], path: Path, plot: Callable[[dict[str, Any]], "Figure"] | None = None) -> None:
    """Writes the results to `path`, and their plot beside it as a PNG file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(report, indent=2, ensure_ascii=False) + "\n")
    if plot is not None:
        plot(report).savefig(path.with_suffix(".png"), dpi=130)
