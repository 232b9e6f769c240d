"""The demo with nano's weights, as users run it."""

import os
import subprocess
import sys
import wave
from pathlib import Path


def test_demo_speaks_an_intelligible_answer(tmp_path: Path) -> None:
    out = tmp_path / "answer.wav"
    command = [sys.executable, "-m", "cli", "demo", "--out", str(out)]
    environment = {**os.environ, "COLUMNS": "200"}
    result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=240, env=environment)
    assert result.returncode == 0, result.stderr
    shown = {line.split("  ")[0].strip(): line for line in result.stdout.splitlines()}
    assert "What is in the picture?" in shown["Question"]
    assert "first audio" in shown["Times"]
    answer, heard = shown["Answer"].removeprefix("Answer").strip(), result.stdout.splitlines()[-1]
    assert answer
    assert heard.startswith("Heard back")
    with wave.open(str(out)) as file:
        assert file.getnframes() > 0
    spoken = {word.strip(".,!?“”").lower() for word in heard.removeprefix("Heard back").split()}
    assert spoken & {word.strip(".,!?").lower() for word in answer.split()}, f"{answer!r} was heard as {heard!r}"
