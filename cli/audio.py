"""`lyra transcribe` and `lyra speak`."""

import json
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from cli.client import GatewayClient
from cli.connection import KeyOption, UrlOption, find_gateway
from cli.console import note, write_text

_SPEECH_FORMATS = ("wav", "mp3", "opus", "pcm")


class TranscriptFormat(StrEnum):
    """Formats of a transcript."""

    TEXT = "text"
    JSON = "json"
    SRT = "srt"
    VTT = "vtt"


def transcribe(
    file: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="wav, mp3, flac, ogg, webm or m4a.")],
    format: Annotated[
        TranscriptFormat, typer.Option(help="json has segments with times; srt and vtt are subtitles.")
    ] = TranscriptFormat.TEXT,
    language: Annotated[
        str, typer.Option(help="Language spoken, for example en; empty for what the model assumes.")
    ] = "",
    url: UrlOption = None,
    key: KeyOption = None,
) -> None:
    """Transcribe a recording.

    \b
    Examples:
      lyra transcribe meeting.mp3
      lyra transcribe talk.m4a --format srt > talk.srt
    """
    wanted = "verbose_json" if format is TranscriptFormat.JSON else format.value
    with GatewayClient(find_gateway(url, key)) as client:
        transcript = client.transcribe(file.name, file.read_bytes(), wanted, language)
    if format is TranscriptFormat.JSON:
        transcript = json.dumps(json.loads(transcript), ensure_ascii=False, indent=2)
    write_text(transcript.strip("\n") + "\n")


def speak(
    text: Annotated[str, typer.Argument(help="What to say.")],
    out: Annotated[Path, typer.Option(dir_okay=False, help="File to write; its suffix is the format: wav, mp3, opus.")],
    voice: Annotated[str, typer.Option(help="Name of the voice; empty for the default one.")] = "",
    speed: Annotated[float, typer.Option(min=0.25, max=4.0, help="1 is as recorded, 2 twice as fast.")] = 1.0,
    url: UrlOption = None,
    key: KeyOption = None,
) -> None:
    """Speak a text and write the audio to a file.

    \b
    Examples:
      lyra speak "The train leaves at ten." --out train.wav
      lyra speak "Slowly, please." --speed 0.7 --out slow.mp3
    """
    wanted = out.suffix.lower().lstrip(".")
    if wanted not in _SPEECH_FORMATS:
        raise typer.BadParameter(f"{out.name}: name a .wav, .mp3, .opus or .pcm file", param_hint="--out")
    if not text.strip():
        raise typer.BadParameter("the text is empty", param_hint="TEXT")
    with GatewayClient(find_gateway(url, key)) as client:
        # All of it first: a truncated file would look complete.
        data = b"".join(client.speak(text, wanted, voice, speed))
    out.write_bytes(data)
    note(f"{out}: {len(data):,} bytes")
