"""TTS voices for training data, with random variation of pace, pitch and vocal-tract length.

| voice | program or package | |
|---|---|---|
| slt, awb, kal16 | Debian `flite` | rms is held out of all training, for testing |
| kal, ked, slt-hts | Debian `festival` with `festvox-kallpc16k`, `-kdlpc16k`, `-us-slt-hts` | diphones, HTS |
| joe | the Piper voice of preset nano | VITS |
| af_*, am_*, bf_*, bm_* | Kokoro-82M | 28 speakers, see `kokoro.SPEAKERS` |

Noise and reverberation are added by `augment`.
"""

import random
import shutil
import subprocess
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import Protocol

import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray

from model_core.audio.tensors import SAMPLE_RATE
from model_core.checkpoints.store import part_folder
from model_core.data import kokoro
from model_core.errors import InvalidInput
from model_core.speech.voice import PiperVoice

Samples = NDArray[np.float32]

FLITE_VOICES = ("slt", "awb", "kal16")
HELD_OUT_VOICE = "rms"
FESTIVAL_VOICES = {"kal": "kal_diphone", "ked": "ked_diphone", "slt-hts": "cmu_us_slt_arctic_hts"}
PIPER_VOICE = "joe"
TRAINING_VOICES = (*FLITE_VOICES, *FESTIVAL_VOICES, PIPER_VOICE, *kokoro.SPEAKERS)
# Mean pitch of flite's voices in Hz, varied by up to 15 %.
_FLITE_PITCH = {"slt": 170, "awb": 125, "kal16": 105, HELD_OUT_VOICE: 100}
_FESTIVAL_PACKAGES = {"kal": "festvox-kallpc16k", "ked": "festvox-kdlpc16k", "slt-hts": "festvox-us-slt-hts"}


class VoiceMissing(RuntimeError):
    """A program or file that a voice needs is not installed."""


class Prosody:
    """Prosody of an utterance, determined by a seed: factors relative to the voice's own; all 1 without variation."""

    __slots__ = ("pace", "pitch", "size")

    def __init__(self, seed: int, vary: bool) -> None:
        rng = random.Random(seed)
        self.pace = rng.uniform(0.85, 1.2) if vary else 1.0
        self.pitch = rng.uniform(0.87, 1.15) if vary else 1.0
        # Greater than 1: all formants are higher, as with a shorter vocal tract.
        self.size = rng.uniform(0.92, 1.1) if vary else 1.0


class TrainingVoice(Protocol):
    """A voice for training data."""

    @property
    def name(self) -> str: ...

    def synthesize(self, text: str, seed: int, *, vary: bool = True) -> Samples:
        """[S] samples in -1 to 1 at 16 kHz.

        Args:
            text: A sentence.
            seed: Determines the prosody; the same text and seed give the same samples.
            vary: False for the voice's own prosody.
        """
        ...

    def synthesize_batch(self, texts: Sequence[str], seeds: Sequence[int], *, vary: bool = True) -> list[Samples]:
        """`synthesize` for each text with its seed; faster for voices that start a program."""
        ...


def load_voices(home: Path, names: Iterable[str]) -> dict[str, TrainingVoice]:
    """Loads voices by name; missing packages are fetched below `home`.

    Raises:
        InvalidInput: a voice does not exist.
        VoiceMissing: the program of a voice is not installed.
        WeightsMissing: the model of a voice cannot be fetched.
    """
    return {name: _reader(home, name) for name in names}


def _reader(home: Path, name: str) -> TrainingVoice:
    if name in _FLITE_PITCH:
        return FliteVoice(name)
    if name in FESTIVAL_VOICES:
        return FestivalVoice(name)
    if name == PIPER_VOICE:
        return PiperTrainingVoice(PiperVoice.load(part_folder(home, "nano", "voice")))
    if name in kokoro.SPEAKERS:
        return KokoroTrainingVoice(name, _kokoro(home / "training" / "packages"))
    raise InvalidInput("voice", f"{name!r} is not a voice; voices are {', '.join((*TRAINING_VOICES, HELD_OUT_VOICE))}")


@cache
def _kokoro(packages: Path) -> kokoro.KokoroVoice:
    """One model shared by all speakers."""
    return kokoro.KokoroVoice(packages)


class _SentenceVoice(ABC):
    """A voice that synthesizes one text at a time."""

    def __init__(self, name: str) -> None:
        self.name = name

    def synthesize(self, text: str, seed: int, *, vary: bool = True) -> Samples:
        return self._synthesize(text, Prosody(seed, vary), seed, vary)

    def synthesize_batch(self, texts: Sequence[str], seeds: Sequence[int], *, vary: bool = True) -> list[Samples]:
        return [self.synthesize(text, seed, vary=vary) for text, seed in zip(texts, seeds, strict=True)]

    @abstractmethod
    def _synthesize(self, text: str, prosody: Prosody, seed: int, vary: bool) -> Samples: ...


class FliteVoice(_SentenceVoice):
    """A voice of the program `flite`."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self._program = _program("flite", "flite")

    def _synthesize(self, text: str, prosody: Prosody, seed: int, vary: bool) -> Samples:
        with tempfile.NamedTemporaryFile(suffix=".wav") as file:
            settings = ["--setf", f"duration_stretch={prosody.size / prosody.pace:.3f}"]
            settings += ["--setf", f"int_f0_target_mean={_FLITE_PITCH[self.name] * prosody.pitch / prosody.size:.0f}"]
            command = [self._program, "-voice", self.name, *settings, "-t", text, "-o", file.name]
            subprocess.run(command, check=True, capture_output=True)
            return _resampled(*_read_audio(Path(file.name)), prosody.size)


class FestivalVoice:
    """A voice of the program `festival`, which synthesizes many sentences per start, since it is slow to start."""

    def __init__(self, name: str) -> None:
        self.name = name
        package = _FESTIVAL_PACKAGES[name]
        self._program = _program("festival", f"festival {package}")
        listed = subprocess.run(
            [self._program, "-b", "(print (voice.list))"], check=True, capture_output=True, text=True
        )
        if FESTIVAL_VOICES[name] not in listed.stdout:
            raise VoiceMissing(f"festival lacks the voice {name}: `apt-get install {package}`")

    def synthesize(self, text: str, seed: int, *, vary: bool = True) -> Samples:
        return self.synthesize_batch([text], [seed], vary=vary)[0]

    def synthesize_batch(self, texts: Sequence[str], seeds: Sequence[int], *, vary: bool = True) -> list[Samples]:
        prosodies = [Prosody(seed, vary) for seed in seeds]
        with tempfile.TemporaryDirectory() as scratch:
            files = [Path(scratch) / f"{number}.wav" for number in range(len(texts))]
            script = Path(scratch) / "read.scm"
            script.write_text(self._script(texts, prosodies, files))
            subprocess.run([self._program, "-b", str(script)], check=True, capture_output=True)
            # Resampling raises pitch and formants together.
            pairs = zip(files, prosodies, strict=True)
            return [_resampled(*_read_audio(file), prosody.pitch) for file, prosody in pairs]

    def _script(self, texts: Sequence[str], prosodies: Sequence[Prosody], files: Sequence[Path]) -> str:
        lines = [f"(voice_{FESTIVAL_VOICES[self.name]})"]
        for text, prosody, file in zip(texts, prosodies, files, strict=True):
            quoted = text.replace("\\", " ").replace('"', " ")
            lines += [
                f"(Parameter.set 'Duration_Stretch {prosody.pitch / prosody.pace:.3f})",
                f'(set! utt (Utterance Text "{quoted}"))',
                "(utt.synth utt)",
                f'(utt.save.wave utt "{file}" \'riff)',
            ]
        return "\n".join(lines) + "\n"


class PiperTrainingVoice(_SentenceVoice):
    """The Piper voice of preset nano."""

    def __init__(self, voice: PiperVoice) -> None:
        super().__init__(PIPER_VOICE)
        self._voice = voice

    def _synthesize(self, text: str, prosody: Prosody, seed: int, vary: bool) -> Samples:
        # Slowed down by as much as resampling speeds up, so that only the pitch changes.
        spoken = self._voice.speak_clause(text, speed=prosody.pace / prosody.pitch, variation=0.0)
        return _resampled(spoken.astype(np.float32) / np.float32(32768), self._voice.sample_rate, prosody.pitch)


class KokoroTrainingVoice(_SentenceVoice):
    """A speaker of Kokoro."""

    def __init__(self, name: str, voice: kokoro.KokoroVoice) -> None:
        super().__init__(name)
        self._voice = voice

    def _synthesize(self, text: str, prosody: Prosody, seed: int, vary: bool) -> Samples:
        spoken = self._voice.speak(text, self.name, speed=prosody.pace / prosody.size)
        return _resampled(spoken, kokoro.SAMPLE_RATE, prosody.size)


def _program(name: str, packages: str) -> str:
    program = shutil.which(name)
    if program is None:
        raise VoiceMissing(f"the program `{name}` is not installed: `apt-get install {packages}`")
    return program


def _read_audio(file: Path) -> tuple[Samples, int]:
    samples, rate = soundfile.read(file, dtype="float32")
    return samples, rate


def _resampled(samples: Samples, rate: int, faster: float) -> Samples:
    """Resamples to 16 kHz, played back `faster` times as fast."""
    if rate * faster == SAMPLE_RATE:
        return samples
    return np.asarray(soxr.resample(samples, rate * faster, SAMPLE_RATE), np.float32)
