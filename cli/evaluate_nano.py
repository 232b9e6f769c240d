"""`lyra eval nano`: the whole card of preset nano, by one command."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from cli.connection import lyra_home
from cli.console import note, step_progress
from cli.evaluate_options import PartsOption, voice_failures
from cli.failure import model_failures


def nano(
    out: Annotated[
        Path, typer.Option(file_okay=False, help="Folder for results; what it holds is not asked again.")
    ] = Path("runs/card"),
    data: Annotated[Path, typer.Option(exists=True, file_okay=False, help="Folder of nano's test sets.")] = Path(
        "tests/data/held_out"
    ),
    only: Annotated[
        str, typer.Option(help="Parts to measure, or beginnings of their names, for example wer,needle.")
    ] = "",
    workers: Annotated[int, typer.Option(min=1, help="Processes that measure at a time; timed parts run alone.")] = 2,
    parts: PartsOption = None,
    preset: Annotated[str, typer.Option(help="Another preset, to try the card itself.")] = "nano",
) -> None:
    """Measure all that nano's card says, with the targets beside it.

    Hearing, pictures, facts, spoken answers, needles, and what the extractor and the adapters change. Under 20 minutes
    on two cores. Stop it with Ctrl-C at any time: the same command goes on where it stopped.

    \b
    Examples:
      lyra eval nano
      lyra eval nano --only wer,whisper --out results/hearing
    """
    wanted = tuple(each.strip() for each in only.split(",") if each.strip())
    command = ("lyra", *sys.argv[1:])
    with model_failures(), voice_failures(), step_progress() as show:
        from model_core.evaluation.nano import Plan, evaluate_nano
        from model_core.evaluation.report import write_report
        from model_core.presets import SHIPPED

        plan = Plan(
            data=data,
            out=out,
            preset=preset,
            home=lyra_home(),
            parts=parts or SHIPPED,
            only=wanted,
            workers=workers,
            command=command,
        )
        report = evaluate_nano(plan, lambda name, done, total: show(name, done, total, ""))
        write_report(out, report, command)
    note(report.tables[0].markdown())
    note(f"results are in {out}")
    typer.echo(report.result.to_json())
