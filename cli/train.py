"""`lyra train`: the method's four training stages, and the recipe that trains nano."""

import inspect
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from cli.connection import lyra_home
from cli.console import note, step_progress
from cli.dataclass_flags import field_values, parameters
from cli.failure import model_failures
from cli.presets import CheckpointOption

STAGE_HELP = {
    "align": """Stage 1: projectors learn to map speech and pictures into the language model's embeddings.

    nano trains against the embedding table alone (CTC over the transcript), which is fast; presets of the published
    method train through the frozen language model.

    \b
    Example:
      lyra data build align --source chitchat:10000 --out data/align
      lyra train align --preset nano --data data/align --out runs/align
    """,
    "instruct": """Stage 2: projectors and a LoRA adapter learn to answer spoken, visual and written instructions.

    \b
    Examples:
      lyra train instruct --preset nano --data data/instruct --start runs/align --out runs/instruct
      lyra train instruct --preset mini --checkpoint lyra-mini --data data/spoken --data data/written:0.5 --out runs/mm
      torchrun --nproc-per-node 8 -m -- cli train instruct --preset base --checkpoint lyra-base --data data --out runs/b
    """,
    "long-speech": """Stage 3: a second adapter, with its own projector, learns long recordings.

    \b
    Example:
      lyra train long-speech --preset nano --data data/long --start runs/instruct --start-adapter speech --out runs/long
    """,
    "speech-generator": """Stage 4: the speech generator learns speech units from the language model's hidden states.

    \b
    Example:
      lyra train speech-generator --preset nano --data data/speech-generation --out runs/generator
    """,
}

DryRunOption = Annotated[
    bool,
    typer.Option("--dry-run", help="Print what would be trained, with estimates of memory and time, and exit."),
]


class _Stages(TyperGroup):
    """Adds the commands of the stages when `lyra train` is used.

    Their flags come from the dataclasses of `model_core.training.options`, and the image of gateway and workers, which
    contains this file too, has no `model_core.training`.
    """

    def list_commands(self, ctx: Any) -> list[str]:
        self._add_stages()
        return super().list_commands(ctx)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        self._add_stages()
        return super().get_command(ctx, cmd_name)

    def _add_stages(self) -> None:
        if STAGE_HELP.keys() <= self.commands.keys():
            return
        stages = typer.Typer(rich_markup_mode="rich", add_completion=False)
        for name, text in STAGE_HELP.items():
            stages.command(name, help=text)(_stage_command(name))
        self.commands = {**typer.main.get_group(stages).commands, **self.commands}


app = typer.Typer(
    cls=_Stages, no_args_is_help=True, help="Train: the four stages of the method, or the recipe for nano."
)


def _stage_command(name: str) -> Callable[..., None]:
    """The command of a stage, with a flag for every option of a run."""
    from model_core.training.options import HyperparameterOverrides, StageOptions, Start

    def command(*, checkpoint: CheckpointOption = None, dry_run: DryRunOption = False, **given: Any) -> None:
        with model_failures(), step_progress() as show:
            from model_core.training.preset_models import stage_of
            from model_core.training.stage_run import StageRun

            overrides = HyperparameterOverrides(**field_values(HyperparameterOverrides, given))
            options = StageOptions(
                name=name,
                hyperparameters=overrides.apply_to(stage_of(given["preset"], name)),
                start=Start(**field_values(Start, given)),
                checkpoint=checkpoint,
                home=lyra_home(),
                command=shlex.join(["lyra", *sys.argv[1:]]),
                **field_values(StageOptions, given),
            )
            run = StageRun(options, show)
            if dry_run:
                return _print_estimate(run)
            run.run()
        if run.is_main:
            note(f"trained parts, losses and model card are in {options.out}")
        return None

    checkpoint, dry_run, _ = inspect.signature(command).parameters.values()
    data, out, preset, *settings = parameters(StageOptions)
    start, hyperparameters = parameters(Start), parameters(HyperparameterOverrides)
    command.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [data, out, preset, checkpoint, *start, *hyperparameters, *settings, dry_run]
    )
    return command


@app.command()
def nano(
    run: Annotated[
        Path, typer.Option(file_okay=False, help="Folder of data, losses and checkpoints; an interrupted run resumes.")
    ] = Path("runs/nano"),
    out: Annotated[
        Path | None, typer.Option(file_okay=False, help="Folder for the trained parts; by default that of the preset.")
    ] = None,
    show: Annotated[bool, typer.Option("--show", help="Print the commands without running them.")] = False,
) -> None:
    """Train all of nano's own parts with `lyra data build` and `lyra train` commands; takes hours on two cores.

    Stop it with Ctrl-C at any time: the same command resumes it. Requires the Debian packages flite and festival, which
    provide more voices.

    \b
    Examples:
      lyra train nano --show
      lyra train nano
      lyra train nano --run runs/trial --out runs/trial/parts
    """
    from cli.nano_recipe import Recipe
    from model_core.presets import NANO_PARTS

    recipe = Recipe(run, out or NANO_PARTS)
    if show:
        for command in recipe.commands():
            typer.echo(f"lyra {command}")
        return
    recipe.run()
    note(f"the trained parts are in {out or NANO_PARTS}, the losses in {run}")


def _print_estimate(run: Any) -> None:
    from model_core.training.estimate import estimate

    typer.echo(estimate(run).table())
