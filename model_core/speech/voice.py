"""Voices: text deltas in, 16-bit audio out, clause by clause, long before the text ends.

Shapes: S samples, N answer tokens, E width of hidden states. Audio is mono int16 at the voice's sample rate. Nothing
here needs torch.
"""

# ruff: noqa: RUF001 - typographic marks and phonetic letters are the subject

import json
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from model_core.errors import InvalidInput, WeightsMissing
from model_core.text.clauses import ClauseSplitter
from model_core.text.phonemes import EnglishPhonemes

Samples = NDArray[np.int16]

MIN_SPEED, MAX_SPEED = 0.25, 4.0
CHUNK_SECONDS = 0.25
TOKENS_PER_STEP = 16  # a long push of hidden states is spoken in parts: audio comes early and memory stays bounded
_PAUSE_SECONDS = {",": 0.12, ";": 0.2, ":": 0.2, "-": 0.16, "–": 0.16, "—": 0.16}
_SENTENCE_PAUSE_SECONDS = 0.32
_UNMARKED_PAUSE_SECONDS = 0.03  # a clause that was cut for its length continues at once
_SILENCE = 0.006  # of full scale (-44 dB); below it the edges of a clause count as silence
_EDGE_SECONDS = 0.02
_FADE_SECONDS = 0.008
_MAX_PHONEMES = 220  # at normal speed; about 12 s of audio, and 200 MB while the model runs


class Voice(Protocol):
    """A text-to-speech model, from text or from hidden states."""

    @property
    def model(self) -> str: ...
    @property
    def voices(self) -> tuple[str, ...]: ...
    @property
    def sample_rate(self) -> int: ...
    @property
    def hidden_width(self) -> int:
        """Width of the hidden states that it speaks from; 0 for a voice that speaks from text."""
        ...

    def new_stream(self, voice: str = "", speed: float = 1.0) -> "SpeechStream":
        """A stream for one answer. Raises InvalidInput for `voice` or `speed`."""
        ...


@runtime_checkable
class HiddenVoice(Voice, Protocol):
    """A voice from hidden states that advances several answers in one batch."""

    def new_state(self, voice: str = "", speed: float = 1.0) -> Any:
        """The initial state of an answer; errors as in `new_stream`."""
        ...

    def check(self, states: Sequence[Any], hidden: Sequence[NDArray[np.floating]]) -> None:
        """Raises InvalidInput if hidden states are not finite [N, E], or a stream has ended."""
        ...

    def step(
        self, states: Sequence[Any], hidden: Sequence[NDArray[np.floating]], last: Sequence[bool]
    ) -> list[Samples]:
        """Advances answers by N tokens each, which may be 0: the audio [S] of each that is now final."""
        ...


class SpeechStream(Protocol):
    """One answer, spoken while it is generated; yields int16 [S] chunks of at most CHUNK_SECONDS."""

    def push(self, text_delta: str) -> Iterator[Samples]:
        """The audio that a piece of text completed. Raises InvalidInput where the voice speaks from hidden states."""
        ...

    def push_hidden(self, hidden_NE: NDArray[np.floating]) -> Iterator[Samples]:
        """The audio that the hidden states of N answer tokens completed. Raises InvalidInput where they do not fit."""
        ...

    def finish(self) -> Iterator[Samples]:
        """The rest of the audio."""
        ...


class VoiceStream:
    """Speaks one text while it is generated.

    The audio depends on the text alone, not on how it was split into deltas.
    """

    def __init__(self, speak_clause: Callable[[str], Samples], sample_rate: int, speed: float = 1.0) -> None:
        self._speak_clause = speak_clause
        self._sample_rate = sample_rate
        self._speed = speed
        self._splitter = ClauseSplitter()
        self._pause_seconds = 0.0

    def split(self, text_delta: str) -> list[str]:
        """The clauses that `text_delta` completed: `speak` each of them, in order."""
        return self._splitter.push(text_delta)

    def split_rest(self) -> list[str]:
        """The clauses left when the text has ended."""
        return self._splitter.finish()

    def speak(self, clause: str) -> Samples:
        """The audio [S] of the next clause, after a pause; empty if there is nothing to speak."""
        speech = self._speak_clause(clause)
        if not len(speech):
            return speech
        pause = np.zeros(int(self._pause_seconds / self._speed * self._sample_rate), np.int16)
        self._pause_seconds = _pause_after(clause)
        return np.concatenate([pause, speech])

    def push(self, text_delta: str) -> Iterator[Samples]:
        """Yields [S] chunks of at most CHUNK_SECONDS for every clause that `text_delta` completed."""
        return self._chunks(self.split(text_delta))

    def push_hidden(self, hidden_NE: NDArray[np.floating]) -> Iterator[Samples]:
        """Raises InvalidInput: this voice speaks from text."""
        raise InvalidInput("hidden_states", "this voice speaks from text")

    def finish(self) -> Iterator[Samples]:
        """Yields the rest of the audio."""
        return self._chunks(self.split_rest())

    def _chunks(self, clauses: list[str]) -> Iterator[Samples]:
        return (chunk for clause in clauses for chunk in in_chunks(self.speak(clause), self._sample_rate))


class PiperVoice:
    """A Piper voice (VITS, ONNX) with espeak-style phonemes as its input.

    By default the model's two noise sources are off: the same text always gives the same audio.
    """

    hidden_width = 0

    def __init__(self, session: onnxruntime.InferenceSession, config: dict[str, object], name: str) -> None:
        audio, symbols = config["audio"], config["phoneme_id_map"]
        if not isinstance(audio, dict) or not isinstance(symbols, dict):
            raise WeightsMissing(f"the configuration of voice {name} is not a Piper configuration")
        self._session = session
        self._phonemes = EnglishPhonemes()
        self._ids: dict[str, list[int]] = symbols
        self.model = f"piper-{name}"
        self.voices = (str(config.get("dataset") or name),)
        self.sample_rate = int(audio["sample_rate"])

    @classmethod
    def load(cls, folder: Path, threads: int = 1) -> "PiperVoice":
        """Loads the one `*.onnx` of `folder` and its `.onnx.json`, to run on `threads` CPU threads."""
        model = voice_model(folder)
        session = onnxruntime.InferenceSession(str(model), session_options(threads), providers=["CPUExecutionProvider"])
        config = json.loads(model.with_suffix(".onnx.json").read_text(encoding="utf-8"))
        return cls(session, config, model.stem)

    def new_stream(self, voice: str = "", speed: float = 1.0) -> VoiceStream:
        check_voice(voice, speed, self.voices)
        return VoiceStream(lambda clause: self.speak_clause(clause, speed=speed), self.sample_rate, speed)

    def speak(self, text: str, *, speed: float = 1.0) -> Samples:
        """The whole audio [S] of `text`, as from a stream."""
        stream = self.new_stream(speed=speed)
        chunks = [*stream.push(text), *stream.finish()]
        return np.concatenate(chunks) if chunks else np.zeros(0, np.int16)

    def speak_clause(self, clause: str, *, speed: float = 1.0, variation: float = 0.0) -> Samples:
        """The audio [S] of one clause or sentence, without silence around it; empty when there is nothing to speak.

        Args:
            clause: Any text. More than the model should take at once is spoken in parts.
            speed: 1 is the speaker's own; 2 is twice as fast.
            variation: 0 makes the audio depend on the text alone; 1 is the randomness of pitch and rhythm that the
                voice was trained with (useful for training data).
        """
        scales = np.array([0.667 * variation, 1.0 / speed, 0.8 * variation], np.float32)
        parts = [np.zeros(0, np.int16)]
        for phonemes in _parts(self._phonemes.phonemes(clause), int(_MAX_PHONEMES * min(1.0, speed))):
            ids = np.array([self.symbols(phonemes)[1]], np.int64)
            inputs = {"input": ids, "input_lengths": np.array([ids.shape[1]], np.int64), "scales": scales}
            audio_S = np.asarray(self._session.run(None, inputs)[0], np.float32).reshape(-1)
            parts.append(_trimmed(audio_S, self.sample_rate))
        return np.concatenate(parts)

    def symbols(self, phonemes: str) -> tuple[list[str], list[int]]:
        """Start, phonemes and end symbols, with a pad after each but the last, as in training; and their ids."""
        known = [phoneme for phoneme in unicodedata.normalize("NFD", phonemes) if phoneme in self._ids]
        padded = ["^", "_", *(symbol for phoneme in known for symbol in (phoneme, "_")), "$"]
        return padded, [self._ids[symbol][0] for symbol in padded]


class TinyVoice:
    """A random voice that needs no files, for tests: each byte becomes a short tone of its own."""

    model = "tiny-voice"
    voices = ("tiny",)
    sample_rate = 16_000
    hidden_width = 0
    _width, _samples_per_character = 8, 800  # 50 ms

    def __init__(self, seed: int = 0) -> None:
        random = np.random.default_rng(seed)
        self._embeddings = random.standard_normal((256, self._width)).astype(np.float32)
        self._tones = random.standard_normal((self._width, self._samples_per_character)).astype(np.float32)

    def new_stream(self, voice: str = "", speed: float = 1.0) -> VoiceStream:
        check_voice(voice, speed, self.voices)
        return VoiceStream(lambda clause: self.speak_clause(clause, speed=speed), self.sample_rate, speed)

    def speak_clause(self, clause: str, *, speed: float = 1.0) -> Samples:
        """[S] samples, a fixed number per byte of `clause`."""
        length = int(self._samples_per_character / speed)
        letters = self._embeddings[np.frombuffer(clause.encode(), np.uint8)]
        audio_S = np.tanh(0.1 * letters @ np.resize(self._tones, (self._width, length)))
        return _trimmed(audio_S.reshape(-1), self.sample_rate)


class TinyHiddenVoice:
    """A random voice without files that speaks from hidden states, for tests: each becomes a short tone of its own."""

    model = "tiny-hidden-voice"
    voices = ("tiny-hidden",)
    sample_rate = 16_000
    hidden_width = 16
    _samples_per_token = 1600  # 100 ms

    def __init__(self, seed: int = 0) -> None:
        random = np.random.default_rng(seed)
        self._tones = random.standard_normal((self.hidden_width, self._samples_per_token)).astype(np.float32)

    def new_stream(self, voice: str = "", speed: float = 1.0) -> "TinyHiddenStream":
        return TinyHiddenStream(self, self.new_state(voice, speed))

    def new_state(self, voice: str = "", speed: float = 1.0) -> NDArray[np.float32]:
        """The tones [E, S] of one token; nothing of an answer needs to be remembered."""
        check_voice(voice, speed, self.voices)
        return self._tones[:, : int(self._samples_per_token / speed)]

    def check(self, states: Sequence[NDArray[np.float32]], hidden: Sequence[NDArray[np.floating]]) -> None:
        for each in hidden:
            if each.ndim != 2 or each.shape[1] != self.hidden_width:
                raise InvalidInput("hidden_states", f"{list(each.shape)} is not [tokens, {self.hidden_width}]")

    def step(
        self, states: Sequence[NDArray[np.float32]], hidden: Sequence[NDArray[np.floating]], last: Sequence[bool]
    ) -> list[Samples]:
        self.check(states, hidden)
        return [
            (np.tanh(0.1 * hidden_NE @ tones_ES) * 32767.0).astype(np.int16).reshape(-1)
            for tones_ES, hidden_NE in zip(states, hidden, strict=True)
        ]


class TinyHiddenStream:
    """One answer of a `TinyHiddenVoice`."""

    def __init__(self, voice: TinyHiddenVoice, tones_ES: NDArray[np.float32]) -> None:
        self._voice = voice
        self._tones_ES = tones_ES

    def push(self, text_delta: str) -> Iterator[Samples]:
        """Raises InvalidInput: this voice speaks from hidden states."""
        raise InvalidInput("text", "this voice speaks from hidden states")

    def push_hidden(self, hidden_NE: NDArray[np.floating]) -> Iterator[Samples]:
        """Yields one chunk per answer token."""
        self._voice.check([self._tones_ES], [hidden_NE])
        return (self._voice.step([self._tones_ES], [token_E[None]], [False])[0] for token_E in hidden_NE)

    def finish(self) -> Iterator[Samples]:
        """Yields nothing: no audio is held back."""
        return iter(())


def in_chunks(samples_S: Samples, sample_rate: int) -> Iterator[Samples]:
    """The samples in chunks of at most CHUNK_SECONDS; none if there are none."""
    chunk = int(CHUNK_SECONDS * sample_rate)
    return (samples_S[start : start + chunk] for start in range(0, len(samples_S), chunk))


def voice_model(folder: Path) -> Path:
    """The one `*.onnx` of a voice's folder, which has its `.onnx.json` beside it. Raises WeightsMissing."""
    models = sorted(folder.glob("*.onnx"))
    if len(models) != 1 or not models[0].with_suffix(".onnx.json").is_file():
        raise WeightsMissing(f"no voice in {folder}: run `lyra weights pull nano`")
    return models[0]


def session_options(threads: int) -> onnxruntime.SessionOptions:
    """ONNX Runtime options for a session that shares the CPU with other work."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.enable_cpu_mem_arena = False  # the arena would keep the memory of the longest clause
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # other services need the cores
    return options


def check_voice(voice: str, speed: float, voices: tuple[str, ...]) -> None:
    """Raises InvalidInput where `voice` is not one of `voices` (or empty) or `speed` is out of range."""
    if voice and voice not in voices:
        raise InvalidInput("voice", f"{voice!r} is not one of: {', '.join(voices)}")
    if not MIN_SPEED <= speed <= MAX_SPEED:
        raise InvalidInput("speed", f"{speed} is outside {MIN_SPEED} to {MAX_SPEED}")


def _parts(phonemes: str, max_length: int) -> list[str]:
    """Splits a line of phonemes at blanks into parts of at most `max_length`; drops parts without phonemes."""
    parts: list[str] = []
    while phonemes:
        blank = phonemes.rfind(" ", 1, max_length) if len(phonemes) > max_length else -1
        cut = blank if blank > 0 else max_length
        parts.append(phonemes[:cut])
        phonemes = phonemes[cut:].lstrip()
    return [part for part in parts if any(phoneme.isalpha() for phoneme in part)]


def _trimmed(audio_S: NDArray[np.float32], sample_rate: int) -> Samples:
    """Trims silence from both ends and fades the edges, so that clauses join without clicks."""
    loud = np.flatnonzero(np.abs(audio_S) > _SILENCE)
    if not len(loud):
        return np.zeros(0, np.int16)
    edge = int(_EDGE_SECONDS * sample_rate)
    kept = audio_S[max(0, loud[0] - edge) : loud[-1] + 1 + edge].copy()
    fade = min(int(_FADE_SECONDS * sample_rate), len(kept) // 2)
    ramp = np.linspace(0.0, 1.0, fade, dtype=np.float32)
    kept[:fade] *= ramp
    kept[len(kept) - fade :] *= ramp[::-1]
    return (np.clip(kept, -1.0, 1.0) * 32767.0).astype(np.int16)


def _pause_after(clause: str) -> float:
    mark = clause.rstrip("\"'”’)]*_")[-1:]
    if mark in _PAUSE_SECONDS:
        return _PAUSE_SECONDS[mark]
    return _UNMARKED_PAUSE_SECONDS if mark.isalnum() else _SENTENCE_PAUSE_SECONDS
