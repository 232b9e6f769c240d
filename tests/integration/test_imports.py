"""Code does not import libraries that it does not need, if they are slow to import or missing in an image."""

import subprocess
import sys

import pytest

from tests.paths import ROOT

AUDIO_MODULES = (
    "containers",
    "cuts",
    "decoding",
    "encoding",
    "frames",
    "joining",
    "opening",
    "planning",
    "probe",
    "voice_activity",
)
IMPORT_AUDIO = "; ".join(f"import model_core.audio.{module}" for module in AUDIO_MODULES)


@pytest.mark.parametrize(
    ("code", "absent"),
    [
        pytest.param("import cli.main", ("torch", "transformers", "grpc", "model_core"), id="lyra's help"),
        pytest.param(
            f"{IMPORT_AUDIO}; model_core.audio.voice_activity.VoiceActivity()", ("torch",), id="audio and its cuts"
        ),
        pytest.param(
            "from model_core.presets import build_voice; build_voice('tiny')",
            ("torch", "transformers"),
            id="a voice that reads text",
        ),
    ],
)
def test_a_process_loads_no_library_that_it_does_not_need(code: str, absent: tuple[str, ...]) -> None:
    program = f"import sys; {code}; print(*({set(absent)} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == []
