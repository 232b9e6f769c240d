"""A long recording through `lyra jobs submit` with preset nano, compared with its known transcript."""

import json
import os
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from bench.long_recording import make, score
from services.operations.local.stack import Stack
from tests.paths import ROOT

TASKS = ("--task", "transcript", "--task", "summary", "--question", "What is said first?")
TWO_HOURS = pytest.param(7200, marks=[pytest.mark.full, pytest.mark.timeout(5400)])


def lyra(stack: Stack, *arguments: str) -> str:
    environment = os.environ | {"LYRA_URL": stack.url, "LYRA_API_KEY": stack.key}
    command = [str(Path(sys.executable).parent / "lyra"), *arguments]
    ended = subprocess.run(command, check=False, capture_output=True, text=True, cwd=ROOT, env=environment)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


@pytest.mark.parametrize("seconds", [60, TWO_HOURS])
def test_a_long_recording_is_transcribed_with_timestamps_and_questions_about_it_are_answered(
    nano_stack: Stack, tmp_path: Path, seconds: int, capsys: pytest.CaptureFixture[str]
) -> None:
    recording = tmp_path / "long.mp3"
    said = make(recording, seconds)
    job = json.loads(lyra(nano_stack, "jobs", "submit", str(recording), *TASKS, "--wait", "--json"))
    assert job["state"] == "succeeded"
    result: dict[str, Any] = json.loads(lyra(nano_stack, "jobs", "result", job["id"], "--format", "json"))
    assert result["duration_seconds"] == pytest.approx(said[-1].end_seconds, abs=8)
    assert result["summary"]["text"]
    assert [answer["question"] for answer in result["answers"]] == ["What is said first?"]
    starts = [segment["start_seconds"] for segment in result["segments"]]
    assert starts == sorted(starts)
    assert 0 <= starts[0] <= result["segments"][-1]["end_seconds"] <= result["duration_seconds"]
    found = score(said, result["segments"])
    with capsys.disabled():
        print(f"\n{result['duration_seconds']:.0f} s: {json.dumps(asdict(found))}")
    assert found.wer < 0.25
    assert found.timestamp_error_median < 0.5
    assert found.timestamp_error_p95 < 1.5
