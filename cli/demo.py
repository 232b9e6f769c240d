"""`lyra demo`: a spoken question about a picture, through the whole platform, on this machine."""

import time
from pathlib import Path
from typing import Annotated

import typer

from cli.ask import Answer, collect, content_parts, write_wav
from cli.client import GatewayClient
from cli.connection import Connection
from cli.console import note, out, write_text
from cli.failure import CommandFailed
from cli.presets import CheckpointOption, PresetOption
from cli.serve import running_stack

EXAMPLES = Path(__file__).parent.parent / "examples"
_MAX_TOKENS = 128

AudioOption = Annotated[Path, typer.Option(exists=True, dir_okay=False, help="The spoken question.")]
ImageOption = Annotated[Path, typer.Option(exists=True, dir_okay=False, help="The picture it is about.")]


def demo(
    preset: PresetOption = "nano",
    checkpoint: CheckpointOption = None,
    audio: AudioOption = EXAMPLES / "question.wav",
    image: ImageOption = EXAMPLES / "picture.png",
    wav: Annotated[Path, typer.Option("--out", dir_okay=False, help="File for the spoken answer.")] = Path(
        "answer.wav"
    ),
) -> None:
    """Start a stack, ask a spoken question about a picture, and stop the stack.

    Writes the spoken answer to answer.wav and transcribes it.

    \b
    Examples:
      lyra demo
      lyra demo --audio my-question.wav --image my-picture.jpg
    """
    began = time.perf_counter()
    with running_stack(preset, "127.0.0.1", 0, whole=False, checkpoint=checkpoint) as stack:
        note(f"five processes started in {time.perf_counter() - began:.1f} s; the gateway is at {stack.url}")
        with GatewayClient(Connection(stack.url, stack.key)) as client:
            _converse(client, audio, image, wav)
    note(f"everything is stopped; {time.perf_counter() - began:.1f} s in total")


def _converse(client: GatewayClient, audio: Path, image: Path, wav: Path) -> None:
    transcript = client.transcribe(audio.name, audio.read_bytes(), "text").strip()
    out.print(f"[bold]Picture   [/] {image.name}")
    out.print(f"[bold]Question  [/] {audio.name}: ", end="")
    write_text(f"“{transcript}”\n")
    out.print("[bold]Answer    [/] ", end="")
    answer = collect(client, content_parts("", audio, image), spoken=True, on_text=write_text, max_tokens=_MAX_TOKENS)
    write_text("\n")
    _print_times(answer)
    if not answer.pcm:
        raise CommandFailed("the answer came without speech", "look at the logs of the services")
    write_wav(wav, answer.pcm)
    out.print(f"[bold]Spoken    [/] {wav} ({answer.audio_seconds:.1f} s)")
    again = client.transcribe(wav.name, wav.read_bytes(), "text").strip()
    out.print("[bold]Heard back[/] ", end="")
    write_text(f"“{again}”\n")


def _print_times(answer: Answer) -> None:
    out.print(f"[bold]Times     [/] {answer.summary()}", soft_wrap=True)
