"""Presets on the command line: their names are looked up when a command is called, not when it is defined."""

from pathlib import Path
from typing import Annotated

import typer


def known_preset(name: str) -> str:
    """Validates the name of a preset and returns it. Raises BadParameter, listing all presets."""
    from model_core.errors import UnknownPreset
    from model_core.presets import get_preset

    try:
        return get_preset(name).name
    except UnknownPreset as error:
        raise typer.BadParameter(str(error)) from error


def preset_names() -> list[str]:
    """For shell completion."""
    from model_core.presets import PRESETS

    return list(PRESETS)


PresetOption = Annotated[
    str,
    typer.Option(
        metavar="PRESET",
        callback=known_preset,
        autocompletion=preset_names,
        help="Weights: nano (small, packaged); mini, base, pro, llama3 (need a checkpoint); "
        "tiny and others (random, for tests).",
    ),
]
CheckpointOption = Annotated[
    Path | None,
    typer.Option(
        envvar="LYRA_CHECKPOINT",
        exists=True,
        file_okay=False,
        help="Folder of a checkpoint in the published layout, for presets that require one.",
    ),
]
