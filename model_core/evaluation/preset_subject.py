"""A preset's models in this process, as a subject of evaluation."""

import hashlib
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from model_core.adapter_choice import choose_projector
from model_core.audio.tensors import decode_audio_track, split_clips
from model_core.engine.language_model import LanguageModel
from model_core.engine.request import Delta, Finish, GenerationOptions, Usage
from model_core.engine.sampling_params import SamplingParams
from model_core.errors import InvalidInput
from model_core.evaluation.subject import MAX_AUDIO_SECONDS, AudioSource, Question, Reply, SpokenAnswer, file_hash
from model_core.language.messages import Message, Part, Role, SpeechPart, VisionPart
from model_core.presets import (
    SHIPPED,
    PartsFolder,
    build_language_model,
    build_speech_encoder,
    build_vision_encoder,
    build_voice,
    get_preset,
    lyra_home,
)
from model_core.speech.encoder import SpeechEncoder
from model_core.speech.voice import SpeechStream, Voice
from model_core.speech.voices import voice_named
from model_core.vision.encoder import VisionEncoder
from model_core.vision.image import decode_image
from model_core.vision.video import sample_frames

MAX_PIXELS = 50_000_000
MAX_FRAMES = 16


class PresetSubject:
    """A preset. Each of its models is built on first use.

    Args:
        preset: Name of the preset.
        home: Folder of its weights; None for the default.
        checkpoint: Folder that presets of the published method load; None for the others.
        parts: Folder of nano's trained parts.

    Raises:
        UnknownPreset.
    """

    def __init__(
        self,
        preset: str,
        home: Path | None = None,
        checkpoint: Path | None = None,
        parts: PartsFolder = SHIPPED,
        *,
        device: torch.device | str = "auto",
    ) -> None:
        self._packages = get_preset(preset).packages
        self.preset, self._home, self._checkpoint = preset, home, checkpoint
        self._parts = get_preset(preset).parts_folder(parts)
        self._device = device
        self._lock = threading.Lock()
        self._last_encoded: tuple[tuple[str, ...], list[Part]] = ((), [])

    @property
    def tags(self) -> dict[str, str]:
        return {"preset": self.preset}

    @cached_property
    def identity(self) -> dict[str, str]:
        weights = hashlib.sha256()
        for path in self._small_files():
            weights.update(f"{path.name} {file_hash(path)} ".encode())
        for path in sorted(self._checkpoint.rglob("*")) if self._checkpoint else []:
            weights.update(f"{path.name} {path.stat().st_size} {path.stat().st_mtime_ns} ".encode())
        return {**self.tags, "weights": weights.hexdigest()}

    @cached_property
    def speech_encoder(self) -> SpeechEncoder:
        return build_speech_encoder(self.preset, self._home, self._parts, self._checkpoint, device=self._device)

    @cached_property
    def vision_encoder(self) -> VisionEncoder:
        return build_vision_encoder(self.preset, self._home, self._parts, self._checkpoint, device=self._device)

    @cached_property
    def language_model(self) -> LanguageModel:
        return build_language_model(self.preset, self._home, self._parts, self._checkpoint, device=self._device)

    @cached_property
    def voice(self) -> Voice:
        threads = torch.get_num_threads()
        return build_voice(self.preset, self._home, threads, self._checkpoint, self._parts, device=self._device)

    def answer(self, question: Question) -> Reply:
        """Raises InvalidInput, WeightsMissing."""
        with self._lock, _named(question.name):
            return self._answer(question)

    def answer_batch(self, batch: Sequence[Question]) -> Sequence[Reply]:
        """Raises InvalidInput, WeightsMissing."""
        if len(batch) == 1 or any(question.speak for question in batch):
            return [self.answer(question) for question in batch]
        with self._lock:
            return self._answer_batch(batch)

    def transcribe(self, audio: AudioSource, name: str) -> str:
        """Raises InvalidInput, WeightsMissing."""
        with self._lock, _named(name):
            clips = split_clips(torch.from_numpy(audio.samples()))
            return " ".join(segment.text for segment in self.speech_encoder.transcriber.transcribe(clips))

    def _answer(self, question: Question) -> Reply:
        # Models are built and recordings are synthesized before the clock starts.
        model, voice = self.language_model, voice_named(self.voice, question.voice) if question.speak else None
        watch, parts = self._encoded(question)
        encoding = watch.seconds() if parts else 0.0
        speech = _SpokenOutput(voice, voice.new_stream(question.voice)) if voice else None
        texts, first, usage = [], None, None
        for event in model.generate(_message(question, parts), _options(question, voice)):
            if isinstance(event, Finish):
                usage = event.usage
                continue
            first = watch.seconds() if first is None and event.tokens else first
            texts.append(event.text)
            if speech:
                speech.push(event)
        spoken = speech.finish() if speech else None
        return _reply("".join(texts).strip(), watch.seconds(), first, encoding, usage, spoken)

    def _answer_batch(self, batch: Sequence[Question]) -> list[Reply]:
        model, watch = self.language_model, _Stopwatch()
        requests = []
        for question in batch:
            with _named(question.name):
                requests.append((_message(question, self._encoded(question)[1]), _options(question)))
        texts: list[list[str]] = [[] for _ in batch]
        usages: dict[int, Usage] = {}
        with _named(f"{batch[0].name} to {batch[-1].name}"):
            for number, event in model.generate_batch(requests):
                if isinstance(event, Finish):
                    usages[number] = event.usage
                else:
                    texts[number].append(event.text)
        share = watch.seconds() / len(batch)
        return [
            _reply("".join(text).strip(), share, None, None, usages[number], None) for number, text in enumerate(texts)
        ]

    def _encoded(self, question: Question) -> tuple["_Stopwatch", list[Part]]:
        """Speech and vision tokens of a question, and a stopwatch started once its recordings were loaded."""
        speech_encoder = self.speech_encoder if question.audio or question.videos else None
        vision_encoder = self.vision_encoder if question.images or question.videos else None
        recordings = self._recordings(question)
        watch = _Stopwatch()
        parts: list[Part] = _vision_parts(question, vision_encoder) if vision_encoder else []
        if speech_encoder:
            parts += self._speech_tokens(question, recordings, speech_encoder, self.language_model)
        return watch, parts

    def _recordings(self, question: Question) -> list[torch.Tensor]:
        """Recordings of a question; empty if its speech tokens are cached."""
        if question.audio and self._last_encoded[0] == _audio_key(question):
            return []
        return [torch.from_numpy(audio.samples()) for audio in question.audio]

    def _speech_tokens(
        self, question: Question, recordings: list[torch.Tensor], encoder: SpeechEncoder, model: LanguageModel
    ) -> list[Part]:
        """Speech tokens. The last recordings' are cached: a long one is asked about under several settings."""
        key = _audio_key(question)
        if question.audio and not recordings:
            return list(self._last_encoded[1])
        if question.video_sound:
            tracks = [decode_audio_track(path, max_seconds=MAX_AUDIO_SECONDS) for path in question.videos]
            recordings = recordings + tracks
        parts = _speech_parts(recordings, question.adapter, encoder, model)
        if key:
            self._last_encoded = (key, list(parts))
        return parts

    def _small_files(self) -> list[Path]:
        """Files that change with packaged weights: manifests of converted weights, and all trained parts."""
        if not self._packages:
            return []
        home = self._home or lyra_home()
        files = self._parts.rglob("*") if self._parts else ()
        trained = [path for path in files if path.suffix in (".safetensors", ".json")]
        return [*sorted((home / "weights" / self.preset).glob("*/manifest.json")), *sorted(trained)]


class _Stopwatch:
    def __init__(self) -> None:
        self._start = time.perf_counter()

    def seconds(self) -> float:
        return time.perf_counter() - self._start


@dataclass(slots=True)
class _SpokenOutput:
    """Synthesizes an answer while it is generated, and measures the voice's own time separately."""

    voice: Voice
    stream: SpeechStream
    chunks: list[NDArray[np.int16]] = field(default_factory=list)
    tokens: int = 0
    own: float = 0.0
    first_own: float | None = None
    first_tokens: int | None = None
    first_seconds: float | None = None
    watch: _Stopwatch | None = None

    def push(self, delta: Delta) -> None:
        """Synthesizes what a piece of the answer makes final."""
        self.watch = self.watch or _Stopwatch()
        self.tokens += delta.tokens
        if not self.voice.hidden_width:
            self._take(self.stream.push(delta.text))
        elif delta.hidden_states is not None:
            self._take(self.stream.push_hidden(delta.hidden_states.float().cpu().numpy()))

    def finish(self) -> SpokenAnswer:
        """Synthesizes the rest. Returns the whole answer."""
        self._take(self.stream.finish())
        return SpokenAnswer(
            samples=np.concatenate([np.zeros(0, np.int16), *self.chunks]),
            sample_rate=self.voice.sample_rate,
            first_audio_seconds=self.first_seconds,
            first_audio_tokens=self.first_tokens,
            own_seconds=self.own,
            own_first_seconds=self.first_own,
        )

    def _take(self, chunks: Iterator[NDArray[np.int16]]) -> None:
        start = time.perf_counter()
        for chunk in chunks:
            if self.first_own is None and len(chunk):
                self.first_own = self.own + time.perf_counter() - start
                self.first_tokens = self.tokens
                self.first_seconds = self.watch.seconds() if self.watch else None
            self.chunks.append(chunk)
        self.own += time.perf_counter() - start


@contextmanager
def _named(name: str) -> Iterator[None]:
    """Prefixes the field of an InvalidInput with the question's name."""
    try:
        yield
    except InvalidInput as error:
        raise InvalidInput(f"{name}, {error.field}", error.message) from error


def _message(question: Question, parts: list[Part]) -> list[Message]:
    return [Message(Role.USER, [*parts, *([question.text] if question.text else [])])]


def _options(question: Question, voice: Voice | None = None) -> GenerationOptions:
    return GenerationOptions(
        sampling=SamplingParams(max_tokens=question.max_tokens or None),
        adapter=question.adapter,
        keep_rate=question.keep_rate,
        blocks=question.blocks,
        hidden_states=voice is not None and voice.hidden_width > 0,
    )


def _vision_parts(question: Question, encoder: VisionEncoder) -> list[Part]:
    parts: list[Part] = []
    with torch.inference_mode():
        for path in question.images:
            tokens = encoder.encode([decode_image(path.read_bytes(), max_pixels=MAX_PIXELS)])[0]
            parts.append(VisionPart(tokens.tokens, tokens.grid))
        for path in question.videos:
            frames = sample_frames(path, max_frames=MAX_FRAMES, max_seconds=MAX_AUDIO_SECONDS, max_pixels=MAX_PIXELS)
            tokens = encoder.encode_video(frames)
            parts.append(VisionPart(tokens.tokens, tokens.grid))
    return parts


def _audio_key(question: Question) -> tuple[str, ...]:
    """Everything that a question's speech tokens depend on; empty if it has videos or no recordings."""
    if question.videos or not question.audio:
        return ()
    return (question.adapter, *(audio.key for audio in question.audio))


def _speech_parts(
    recordings: list[torch.Tensor], named: str, encoder: SpeechEncoder, model: LanguageModel
) -> list[Part]:
    """All clips of all recordings, encoded with the projector that the gateway's pipeline would choose."""
    clips = [clip.samples for samples_S in recordings for clip in split_clips(samples_S)]
    adapter = choose_projector(encoder.adapters, model.adapters, clips=len(clips), named=named)
    return [SpeechPart(encoder.encode([clip_S], adapter)[0]) for clip_S in clips]


def _reply(
    text: str,
    seconds: float,
    first: float | None,
    encoding: float | None,
    usage: Usage | None,
    spoken: SpokenAnswer | None,
) -> Reply:
    assert usage is not None  # `generate` ends with a Finish, or raises
    return Reply(
        text=text,
        seconds=seconds,
        first_token_seconds=first,
        encoding_seconds=encoding,
        prompt_tokens=usage.prompt_tokens,
        completion_tokens=usage.completion_tokens,
        context_tokens=usage.context_tokens,
        adapter=usage.adapter,
        spoken=spoken,
    )
