"""Voices that read training texts aloud, each with its own spread of pace, pitch, loudness and noise.

flite (Debian package `flite`) gives four speakers of which one is kept out for testing; the Piper voice of preset nano
is a fifth.
"""

import io
import random
import shutil
import subprocess
import tempfile
from pathlib import Path

import numpy as np
import soundfile
import soxr

from model_core.speech.audio import SAMPLE_RATE
from model_core.speech.voice import PiperVoice

FLITE_VOICES = ("slt", "awb", "kal16")
HELD_OUT_VOICE = "rms"
PIPER_VOICE = "joe"
# Mean pitch of flite's voices in Hz; a reader varies it by up to 15 %.
_PITCH = {"slt": 170, "awb": 125, "kal16": 105, "rms": 100}


class SpeakerMissing(RuntimeError):
    """A program or file that a training voice needs is not on this machine."""


def speak(text: str, voice: str, seed: int, piper: PiperVoice | None = None, *, vary: bool = True) -> np.ndarray:
    """[samples] float32 at 16 kHz.

    Args:
        text: What to say.
        voice: A flite voice, or `joe` for the Piper voice.
        seed: Decides on pace, pitch, loudness and noise.
        piper: A `PiperVoice`, needed for `joe`.
        vary: False for the voice as it is.

    Raises:
        SpeakerMissing: flite is not installed.
    """
    rng = random.Random(seed)
    pace = rng.uniform(0.85, 1.2) if vary else 1.0
    pitch = rng.uniform(0.87, 1.15) if vary else 1.0
    samples = _piper(text, pace, pitch, piper) if voice == PIPER_VOICE else _flite(text, voice, pace, pitch)
    return disturb(samples, rng) if vary else samples


def disturb(samples: np.ndarray, rng: random.Random) -> np.ndarray:
    """Another loudness, for half of the samples white or low-passed noise 10 to 40 dB below the voice."""
    loud = samples * (10 ** (rng.uniform(-18, 0) / 20) / max(float(np.abs(samples).max()), 1e-4))
    if rng.random() < 0.5:
        noise = np.random.default_rng(rng.randrange(2**32)).standard_normal(len(loud) + 8, np.float32)
        if rng.random() < 0.5:
            noise = np.convolve(noise, np.full(8, 0.125, np.float32), "same").astype(np.float32)
        level = np.sqrt(np.mean(loud**2)) * 10 ** (-rng.uniform(10, 40) / 20)
        loud = loud + noise[: len(loud)] * level / max(float(noise.std()), 1e-6)
    return np.clip(loud, -1, 1).astype(np.float32)


def _flite(text: str, voice: str, pace: float, pitch: float) -> np.ndarray:
    program = shutil.which("flite")
    if program is None:
        raise SpeakerMissing("the program `flite` is not installed: `apt-get install flite`")
    with tempfile.NamedTemporaryFile(suffix=".wav") as file:
        settings = ["--setf", f"duration_stretch={1 / pace:.3f}"]
        settings += ["--setf", f"int_f0_target_mean={_PITCH[voice] * pitch:.0f}"]
        command = [program, "-voice", voice, *settings, "-t", text, "-o", file.name]
        subprocess.run(command, check=True, capture_output=True)
        samples, rate = soundfile.read(io.BytesIO(Path(file.name).read_bytes()), dtype="float32")
    return np.asarray(soxr.resample(samples, rate, SAMPLE_RATE), np.float32) if rate != SAMPLE_RATE else samples


def _piper(text: str, pace: float, pitch: float, piper: PiperVoice | None) -> np.ndarray:
    if piper is None:
        raise SpeakerMissing("the Piper voice was not loaded")
    # Played faster, a voice is higher: reading slower by the same factor first leaves the pitch change alone.
    spoken = piper.speak_clause(text, speed=pace / pitch, variation=0.7)
    return np.asarray(
        soxr.resample(spoken.astype(np.float32) / 32768, piper.sample_rate * pitch, SAMPLE_RATE), np.float32
    )
