"""`lyra eval nano`: the whole model card of preset nano."""

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
        Path, typer.Option(file_okay=False, help="Folder for results; predictions that it contains are reused.")
    ] = Path("runs/card"),
    data: Annotated[Path, typer.Option(exists=True, file_okay=False, help="Folder of nano's test sets.")] = Path(
        "tests/data/held_out"
    ),
    only: Annotated[
        str, typer.Option(help="Parts to measure, or prefixes of their names, for example wer,needle.")
    ] = "",
    workers: Annotated[int, typer.Option(min=1, help="Parallel processes; timed parts run alone.")] = 2,
    parts: PartsOption = None,
    preset: Annotated[str, typer.Option(help="Another preset, to test the card itself.")] = "nano",
) -> None:
    """Measure every figure of nano's card and compare it with its target.

    Speech recognition, pictures, facts, spoken answers, needles, and the effect of the extractor and the adapters.
    Under 20 minutes on two cores. Stop it with Ctrl-C at any time: the same command resumes it.

    \b
    Examples:
      lyra eval nano
      lyra eval nano --only wer,whisper --out results/speech
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
