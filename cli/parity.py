"""`lyra parity`: compares our code with reference numbers of the published method."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from cli.console import out
from cli.failure import CommandFailed

if TYPE_CHECKING:
    from model_core.evaluation.parity import Comparison

FolderArgument = Annotated[
    Path,
    typer.Argument(metavar="DIR", exists=True, file_okay=False, help="Reference numbers; tests/data/parity has some."),
]


def parity(folder: FolderArgument) -> None:
    """Compare our code with reference numbers of the published method.

    Prints the largest differences of every output. Exit code 1 if a value differs by more than 1e-4 (relative; near
    0, to the output's largest value), an index differs, or a file is missing or broken.

    \b
    Example:
      lyra parity tests/data/parity
    """
    from model_core.evaluation.parity import TOLERANCE, check_parity

    comparisons = check_parity(folder)
    _show(comparisons)
    failed = [comparison for comparison in comparisons if not comparison.agrees]
    if failed:
        raise CommandFailed(f"{len(failed)} of {len(comparisons)} do not agree: {'; '.join(map(_reason, failed))}")
    out.print(f"all {len(comparisons)} outputs agree: values to {TOLERANCE:g}, indices exactly")


def _show(comparisons: "list[Comparison]") -> None:
    table = Table("file", box=None, header_style="bold", pad_edge=False)
    table.add_column("output", overflow="fold")
    for heading in ("values", "absolute", "relative"):
        table.add_column(heading, justify="right")
    table.add_column("")
    for each in comparisons:
        verdict = "[green]agrees[/]" if each.agrees else "[bold red]failed[/]" if each.problem else "[red]differs[/]"
        table.add_row(Path(each.file).stem, each.output, *_numbers(each), verdict)
    out.print(table)


def _reason(failed: "Comparison") -> str:
    where = f"{failed.file} {failed.output}".rstrip()
    return f"{where}: {failed.problem}" if failed.problem else where


def _numbers(comparison: "Comparison") -> tuple[str, str, str]:
    """The number of values and their largest differences; for indices, how many differ."""
    if comparison.problem:
        return "", "", ""
    if comparison.indices:
        return str(comparison.values), f"{comparison.absolute:.0f} differ", ""
    return str(comparison.values), f"{comparison.absolute:.1e}", f"{comparison.relative:.1e}"
