"""`lyra train`: a preset's own trained parts, made from packages alone."""

from pathlib import Path
from typing import Annotated

import typer

from cli.connection import lyra_home
from cli.console import note, step_progress
from cli.failure import CommandFailed, model_failures

app = typer.Typer(no_args_is_help=True, help="Train the parts of a preset that no package has.")


@app.callback()
def _group() -> None:
    """Makes `nano` a command of a group, so that presets to come stand beside it."""


@app.command()
def nano(
    run: Annotated[
        Path, typer.Option(file_okay=False, help="Folder of losses and checkpoints; a run goes on where it stopped.")
    ] = Path("runs/nano"),
    out: Annotated[
        Path | None, typer.Option(file_okay=False, help="Folder for the trained parts; without it, beside the preset.")
    ] = None,
) -> None:
    """Train nano's projectors and adapters: some hours on two cores.

    Voices read texts aloud, Whisper's frames of them are kept, the projectors are aligned, then projectors and
    adapters are trained through the language model. Stop it with Ctrl-C at any time: the same command goes on. It wants
    Debian's `flite` for more voices.

    \b
    Examples:
      lyra train nano
      lyra train nano --run runs/trial --out runs/trial/parts
    """
    with model_failures(), step_progress() as show:
        from model_core.presets import NANO_PARTS
        from model_core.training.nano import NanoTraining, Recipe
        from model_core.training.speakers import SpeakerMissing

        parts = out or NANO_PARTS
        try:
            NanoTraining(lyra_home(), run, parts, Recipe(), show).all_stages()
        except SpeakerMissing as error:
            raise CommandFailed(str(error), "install Debian's flite: apt-get install flite") from error
    note(f"the trained parts are in {parts}, the losses in {run}")
