"""`lyra` against a running stack of preset tiny."""

import json
import os
import shutil
import signal
import subprocess
import sys
import wave
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from typer.testing import CliRunner, Result

from cli.main import app
from services.operations.local.stack import Stack
from tests.adapters import write_adapter
from tests.integration.gateway.conftest import wav
from tests.videos import make_video

EXAMPLES = Path(__file__).parents[3] / "examples"

Lyra = Callable[..., Result]


@pytest.fixture
def lyra(tiny_stack: Stack, monkeypatch: pytest.MonkeyPatch) -> Lyra:
    """`lyra("speak", "Hello")`, which finds the stack through its home."""
    monkeypatch.setenv("LYRA_HOME", str(tiny_stack.home))
    monkeypatch.delenv("LYRA_URL", raising=False)
    monkeypatch.delenv("LYRA_API_KEY", raising=False)
    return lambda *arguments: CliRunner().invoke(app, [str(argument) for argument in arguments])


def seconds(path: Path) -> float:
    with wave.open(str(path)) as file:
        return float(file.getnframes() / file.getframerate())


def test_ask_finds_the_stack_and_streams_text(lyra: Lyra) -> None:
    result = lyra("ask", "Hello?", "--max-tokens", 8)
    assert result.exit_code == 0
    assert result.stdout.strip()
    assert "first token" in result.stderr


def test_ask_with_speech_and_a_picture_writes_the_spoken_answer(lyra: Lyra, tmp_path: Path) -> None:
    out = tmp_path / "answer.wav"
    media = ("--audio", EXAMPLES / "question.wav", "--image", EXAMPLES / "picture.png")
    result = lyra("ask", *media, "--max-tokens", 8, "--out", out, "--json")
    assert result.exit_code == 0
    answer = json.loads(result.stdout)
    assert answer["text"]
    assert answer["usage"]["prompt_tokens_details"]["audio_tokens"] > 0
    assert answer["usage"]["prompt_tokens_details"]["image_tokens"] > 0
    assert answer["first_audio_seconds"] is not None
    assert seconds(out) == pytest.approx(answer["audio_seconds"], abs=0.001)


def test_ask_about_a_video_counts_its_frames_and_its_audio(lyra: Lyra, tmp_path: Path) -> None:
    video = tmp_path / "clip.mp4"
    video.write_bytes(make_video(loudness=0.3))
    result = lyra("ask", "--video", video, "--max-tokens", 4, "--json")
    assert result.exit_code == 0
    details = json.loads(result.stdout)["usage"]["prompt_tokens_details"]
    assert details["image_tokens"] == 16
    assert details["audio_tokens"] > 0


def test_a_bad_video_is_named_in_the_error(lyra: Lyra, tmp_path: Path) -> None:
    (tmp_path / "clip.webm").write_bytes(b"no video")
    result = lyra("ask", "What?", "--video", tmp_path / "clip.webm")
    assert result.exit_code == 1
    assert "video_url" in result.stderr


def test_ask_reports_the_context_tokens_kept_by_the_extractor(lyra: Lyra, tmp_path: Path) -> None:
    recording = tmp_path / "recording.wav"
    recording.write_bytes(wav(10))
    options = ("--audio", recording, "--blocks", 2, "--keep-rate", 0.5, "--adapter", "speech", "--max-tokens", 4)
    told = json.loads(lyra("ask", *options, "--json").stdout)["usage"]["lyra"]
    assert told["adapter"] == "speech"
    first, second = told["context_tokens"]
    assert second == first // 2
    assert f"context tokens by block {first}, {second}" in lyra("ask", *options).stderr


@pytest.mark.parametrize(
    ("option", "value", "field"),
    [
        ("--keep-rate", 1.5, "lyra.keep_rate"),
        ("--blocks", 99, "lyra.blocks"),
        ("--adapter", "none", "lyra.adapter"),
    ],
)
def test_out_of_range_options_are_named_in_the_error(lyra: Lyra, option: str, value: object, field: str) -> None:
    result = lyra("ask", "Hello?", option, value)
    assert result.exit_code == 1
    assert field in result.stderr


def test_adapters_are_listed_loaded_and_unloaded(lyra: Lyra, tiny_stack: Stack) -> None:
    folder = tiny_stack.home / "adapters" / "meetings"
    write_adapter(folder, "tiny")
    assert "meetings" in lyra("adapters", "list").stdout
    loaded = lyra("adapters", "load", "meetings")
    assert loaded.exit_code == 0
    assert "speech encoder, language model" in loaded.stderr
    assert lyra("ask", "Hello?", "--adapter", "meetings", "--max-tokens", 2).exit_code == 0
    again = lyra("adapters", "load", "meetings")
    assert again.exit_code == 1
    assert "already resident" in again.stderr
    assert lyra("adapters", "unload", "meetings").exit_code == 0
    assert lyra("adapters", "unload", "meetings").exit_code == 1
    assert lyra("ask", "Hello?", "--adapter", "meetings", "--max-tokens", 2).exit_code == 1
    shutil.rmtree(folder)


def test_transcripts_are_written_in_every_format(lyra: Lyra) -> None:
    question = EXAMPLES / "question.wav"
    assert "segments" in json.loads(lyra("transcribe", question, "--format", "json").stdout)
    assert lyra("transcribe", question, "--format", "vtt").stdout.startswith("WEBVTT")
    assert lyra("transcribe", question).exit_code == 0


def test_speak_takes_the_format_from_the_file_name(lyra: Lyra, tmp_path: Path) -> None:
    assert lyra("speak", "Good morning.", "--out", tmp_path / "a.wav").exit_code == 0
    assert (tmp_path / "a.wav").read_bytes()[:4] == b"RIFF"
    assert lyra("speak", "Good morning.", "--out", tmp_path / "a.opus").exit_code == 0
    assert (tmp_path / "a.opus").read_bytes()[:4] == b"OggS"


def test_a_bad_recording_is_named_and_nothing_is_written(lyra: Lyra, tmp_path: Path) -> None:
    (tmp_path / "noise.wav").write_bytes(b"no sound")
    out = tmp_path / "answer.wav"
    result = lyra("ask", "--audio", tmp_path / "noise.wav", "--out", out)
    assert result.exit_code == 1
    assert "input_audio" in result.stderr
    assert not out.exists()


@pytest.mark.parametrize("number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.full)])
def test_serve_runs_until_it_is_terminated(tmp_path: Path, number: signal.Signals) -> None:
    environment = {**os.environ, "LYRA_HOME": str(tmp_path), "PYTHONUNBUFFERED": "1"}
    command = [sys.executable, "-m", "cli", "serve", "--preset", "tiny", "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        try:
            assert process.stdout is not None
            first = process.stdout.readline()
            state = json.loads((tmp_path / "run" / "stack.json").read_text())
            assert state["url"] in first
            children = psutil.Process(process.pid).children(recursive=True)
            process.send_signal(number)
            assert process.wait(180) == 0
        finally:
            process.kill()
    assert not psutil.wait_procs(children, timeout=60)[1]
    assert not (tmp_path / "run" / "stack.json").exists()
