"""`lyra ask`: a spoken or written question, optionally about a picture or a video; the answer is streamed."""

import json
import time
import wave
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any

import typer

from cli.client import AudioPiece, Ending, GatewayClient, TextPiece, audio_part, image_part, text_part, video_part
from cli.connection import KeyOption, UrlOption, find_gateway
from cli.console import note, write_text

PCM_RATE = 24_000  # Hz, of `pcm16` answers


@dataclass(slots=True)
class Answer:
    """A complete answer with its latencies, in seconds from the request."""

    text: str = ""
    pcm: bytes = b""
    finish_reason: str = ""
    usage: dict[str, Any] = field(default_factory=dict)
    first_token_seconds: float | None = None
    first_audio_seconds: float | None = None
    total_seconds: float = 0.0

    @property
    def audio_seconds(self) -> float:
        """Length of the spoken answer."""
        return len(self.pcm) / 2 / PCM_RATE

    def summary(self) -> str:
        """One line with the latencies and the tokens left by the extractor."""
        parts = [] if self.first_token_seconds is None else [f"first token {self.first_token_seconds:.2f} s"]
        if self.first_audio_seconds is not None:
            parts.append(f"first audio {self.first_audio_seconds:.2f} s")
        parts.append(f"whole answer {self.total_seconds:.2f} s")
        context = self.usage.get("lyra", {}).get("context_tokens", [])
        if len(set(context)) > 1:
            parts.append(f"context tokens by block {', '.join(map(str, context))}")
        if self.pcm:
            parts.append(f"{self.audio_seconds:.1f} s of speech")
        return " · ".join(parts)


def content_parts(text: str, audio: Path | None, image: Path | None, video: Path | None = None) -> list[dict[str, Any]]:
    """Message parts in the order picture, video, recording, text."""
    parts = [image_part(image)] if image else []
    if video:
        parts.append(video_part(video))
    if audio:
        parts.append(audio_part(audio))
    if text:
        parts.append(text_part(text))
    return parts


def collect(
    client: GatewayClient,
    content: list[dict[str, Any]],
    *,
    spoken: bool,
    on_text: Callable[[str], None],
    **options: Any,
) -> Answer:
    """Asks, passes every piece of text to `on_text` as it arrives, and returns the complete answer."""
    if spoken:
        options |= {"modalities": ["text", "audio"], "audio": {"format": "pcm16", **options.get("audio", {})}}
    answer, pcm, start = Answer(), bytearray(), time.perf_counter()
    pieces: Iterable[TextPiece | AudioPiece | Ending] = client.chat(content, **options)
    for piece in pieces:
        elapsed = time.perf_counter() - start
        match piece:
            case TextPiece(text):
                if answer.first_token_seconds is None:
                    answer.first_token_seconds = elapsed
                answer.text += text
                on_text(text)
            case AudioPiece(data):
                if answer.first_audio_seconds is None:
                    answer.first_audio_seconds = elapsed
                pcm += data
            case Ending(reason, usage):
                answer.finish_reason, answer.usage = reason, usage
    answer.pcm, answer.total_seconds = bytes(pcm), time.perf_counter() - start
    return answer


def write_wav(path: Path, pcm: bytes) -> None:
    """Writes 16-bit mono samples of PCM_RATE to a WAV file."""
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(PCM_RATE)
        file.writeframes(pcm)


def ask(
    text: Annotated[str, typer.Argument(help="The question, or what to do with the recording, picture or video.")] = "",
    audio: Annotated[
        Path | None, typer.Option(exists=True, dir_okay=False, help="A recording: wav, mp3, flac, ogg, webm or m4a.")
    ] = None,
    image: Annotated[
        Path | None, typer.Option(exists=True, dir_okay=False, help="A picture: JPEG, PNG or WebP.")
    ] = None,
    video: Annotated[
        Path | None, typer.Option(exists=True, dir_okay=False, help="A video, with or without audio: mp4, webm or mov.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(dir_okay=False, help="Speak the answer too, and write it to this WAV file.")
    ] = None,
    voice: Annotated[str, typer.Option(help="Voice of the spoken answer; empty for the default one.")] = "",
    adapter: Annotated[
        str, typer.Option(help="Adapter to answer with, base for none; empty for the one that fits.")
    ] = "",
    keep_rate: Annotated[
        float | None,
        typer.Option(help="Share of speech and vision tokens kept after each block, over 0 and at most 1 (all)."),
    ] = None,
    blocks: Annotated[
        int | None, typer.Option(min=1, help="Blocks that the model's layers are divided into; 1 keeps all tokens.")
    ] = None,
    max_tokens: Annotated[int | None, typer.Option(min=1, help="Maximum tokens of the answer.")] = None,
    temperature: Annotated[float, typer.Option(min=0, max=2, help="0 selects the most likely token each time.")] = 0.0,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object instead of the streaming text.")
    ] = False,
    url: UrlOption = None,
    key: KeyOption = None,
) -> None:
    """Ask a question and stream the answer.

    \b
    Examples:
      lyra ask "What is a prime number?"
      lyra ask --audio question.wav --image picture.png --out answer.wav
      lyra ask "Repeat what I say." --audio hello.mp3 --json
      lyra ask "What happens here?" --video clip.mp4
      lyra ask "What is decided?" --audio meeting.mp3 --keep-rate 0.7 --blocks 4
    """
    if not text and not audio and not video:
        raise typer.BadParameter('give a question: lyra ask "TEXT", or --audio or --video FILE with a spoken one')
    options: dict[str, Any] = {"temperature": temperature}
    if max_tokens is not None:
        options["max_completion_tokens"] = max_tokens
    lyra = {"adapter": adapter or None, "keep_rate": keep_rate, "blocks": blocks}
    if given := {name: value for name, value in lyra.items() if value is not None}:
        options["lyra"] = given
    if out and voice:
        options["audio"] = {"voice": voice}
    with GatewayClient(find_gateway(url, key)) as client:
        show = (lambda piece: None) if as_json else write_text
        answer = collect(
            client, content_parts(text, audio, image, video), spoken=out is not None, on_text=show, **options
        )
    if out:
        write_wav(out, answer.pcm)
    if as_json:
        typer.echo(_as_json(answer, out))
        return
    write_text("\n")
    note(answer.summary())
    if out:
        note(f"spoken answer: {out}")


def _as_json(answer: Answer, out: Path | None) -> str:
    fields = asdict(answer)
    del fields["pcm"]
    if out:
        fields |= {"audio": str(out), "audio_seconds": round(answer.audio_seconds, 3)}
    return json.dumps(fields, ensure_ascii=False)
