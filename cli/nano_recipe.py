"""How nano's own parts are made: `lyra` commands, in order. Each goes on where it stopped and does nothing twice."""

import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from cli.console import note
from cli.failure import CommandFailed

# Readers that are fast on one core; Kokoro's speakers resemble people most and take half a second for one of sound.
_FAST_VOICES = "slt,awb,kal16,kal,ked,slt-hts,joe=0.5"

# {data} and {run} are folders below the run's own.
COMMANDS = (
    # Stage 1: sentences of several kinds by several readers; pictures with their names.
    "data build align --source chitchat:5000 --source austen:3500 --source wordnet-examples:2500"
    " --source wordnet-glosses:1200 --source moby-dick:400 --source bible:400 --source sotu:1000"
    f" --voices {_FAST_VOICES} --seed 1 --out {{data}}/align-fast",
    "data build align --source easy-vqa --source drawings --out {data}/align-pictures",
    "train align --data {data}/align-fast --data {data}/align-pictures --steps 2500 --out {run}/align",
)

# Which parts come from which run.
PARTS = (
    ("vision", "vision_projector.safetensors"),
    ("vision", "adapters/vision"),
    ("speech", "adapters/speech"),
    ("long-speech", "adapters/long_speech"),
    ("speech-generator", "speech_generator"),
)


class Recipe:
    """One run of the recipe.

    Args:
        run: Folder of data and of every stage's run.
        parts: Folder that gets the trained parts.
    """

    def __init__(self, run: Path, parts: Path) -> None:
        self.folder = run
        self.parts = parts

    def commands(self) -> Iterator[str]:
        """The commands, as one would type them behind `lyra`."""
        data, run = (shlex.quote(str(self.folder / name)) for name in ("data", "stages"))
        for command in COMMANDS:
            yield command.format(data=data, run=run)

    def run(self) -> None:
        """Runs every command, then copies the parts. Raises CommandFailed, naming the command that failed."""
        for command in self.commands():
            note(f"lyra {command}")
            ended = subprocess.run([sys.executable, "-m", "cli", *shlex.split(command)], check=False)
            if ended.returncode:
                raise CommandFailed(f"`lyra {command}` failed", "mend what it says, then run `lyra train nano` again")
        for stage, name in PARTS:
            made, target = self.folder / "stages" / stage / name, self.parts / name
            target.parent.mkdir(parents=True, exist_ok=True)
            if made.is_dir():
                shutil.copytree(made, target, dirs_exist_ok=True)
            else:
                shutil.copy(made, target)
