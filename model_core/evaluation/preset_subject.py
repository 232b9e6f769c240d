"""A preset's models in this process, as something to be measured."""

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
from model_core.engine.engine import LanguageModel
from model_core.engine.request import Delta, Finish, GenerationOptions, Usage
from model_core.engine.sampling_params import SamplingParams
from model_core.errors import InvalidInput
from model_core.evaluation.subject import MAX_AUDIO_SECONDS, Ask, Reply, Sound, SpokenAnswer, file_hash
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
    """A preset. Each of its models is built when it is first needed.

    Args:
        preset: Its name.
        home: Where its weights are; None for the default.
        checkpoint: Folder that presets of the published method run; None for the others.
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
        self._last_heard: tuple[tuple[str, ...], list[Part]] = ((), [])

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

    def answer(self, ask: Ask) -> Reply:
        """Raises InvalidInput, WeightsMissing."""
        with self._lock, _named(ask.name):
            return self._answer(ask)

    def answer_together(self, asks: Sequence[Ask]) -> Sequence[Reply]:
        """Raises InvalidInput, WeightsMissing."""
        if len(asks) == 1 or any(ask.speak for ask in asks):
            return [self.answer(ask) for ask in asks]
        with self._lock:
            return self._answer_in_step(asks)

    def transcribe(self, sound: Sound, name: str) -> str:
        """Raises InvalidInput, WeightsMissing."""
        with self._lock, _named(name):
            clips = split_clips(torch.from_numpy(sound.samples()))
            return " ".join(segment.text for segment in self.speech_encoder.transcriber.transcribe(clips))

    def _answer(self, ask: Ask) -> Reply:
        # Models are built and recordings are made before the clock starts.
        model, voice = self.language_model, voice_named(self.voice, ask.voice) if ask.speak else None
        watch, parts = self._encoded(ask)
        encoding = watch.seconds() if parts else 0.0
        mouth = _Mouth(voice, voice.new_stream(ask.voice)) if voice else None
        texts, first, usage = [], None, None
        for event in model.generate(_message(ask, parts), _options(ask, voice)):
            if isinstance(event, Finish):
                usage = event.usage
                continue
            first = watch.seconds() if first is None and event.tokens else first
            texts.append(event.text)
            if mouth:
                mouth.say(event)
        spoken = mouth.finish() if mouth else None
        return _reply("".join(texts).strip(), watch.seconds(), first, encoding, usage, spoken)

    def _answer_in_step(self, asks: Sequence[Ask]) -> list[Reply]:
        model, watch = self.language_model, _Watch()
        requests = []
        for ask in asks:
            with _named(ask.name):
                requests.append((_message(ask, self._encoded(ask)[1]), _options(ask)))
        texts: list[list[str]] = [[] for _ in asks]
        usages: dict[int, Usage] = {}
        with _named(f"{asks[0].name} to {asks[-1].name}"):
            for number, event in model.generate_batch(requests):
                if isinstance(event, Finish):
                    usages[number] = event.usage
                else:
                    texts[number].append(event.text)
        share = watch.seconds() / len(asks)
        return [
            _reply("".join(text).strip(), share, None, None, usages[number], None) for number, text in enumerate(texts)
        ]

    def _encoded(self, ask: Ask) -> tuple["_Watch", list[Part]]:
        """Speech and vision tokens of a question, and a watch that began when its recordings were at hand."""
        hearing = self.speech_encoder if ask.sounds or ask.videos else None
        seeing = self.vision_encoder if ask.images or ask.videos else None
        recordings = self._recordings(ask)
        watch = _Watch()
        parts: list[Part] = _seen(ask, seeing) if seeing else []
        if hearing:
            parts += self._heard(ask, recordings, hearing, self.language_model)
        return watch, parts

    def _recordings(self, ask: Ask) -> list[torch.Tensor]:
        """Recordings of a question; none where its speech tokens are at hand."""
        if ask.sounds and self._last_heard[0] == _heard_key(ask):
            return []
        return [torch.from_numpy(sound.samples()) for sound in ask.sounds]

    def _heard(
        self, ask: Ask, recordings: list[torch.Tensor], encoder: SpeechEncoder, model: LanguageModel
    ) -> list[Part]:
        """Speech tokens. Those of the last recordings are kept: a long one is asked about under several settings."""
        key = _heard_key(ask)
        if ask.sounds and not recordings:
            return list(self._last_heard[1])
        if ask.video_sound:
            recordings = recordings + [decode_audio_track(path, max_seconds=MAX_AUDIO_SECONDS) for path in ask.videos]
        parts = _speech_parts(recordings, ask.adapter, encoder, model)
        if key:
            self._last_heard = (key, list(parts))
        return parts

    def _small_files(self) -> list[Path]:
        """Files that change with packaged weights: manifests of what was converted, and all that was trained here."""
        if not self._packages:
            return []
        home = self._home or lyra_home()
        files = self._parts.rglob("*") if self._parts else ()
        trained = [path for path in files if path.suffix in (".safetensors", ".json")]
        return [*sorted((home / "weights" / self.preset).glob("*/manifest.json")), *sorted(trained)]


class _Watch:
    def __init__(self) -> None:
        self._start = time.perf_counter()

    def seconds(self) -> float:
        return time.perf_counter() - self._start


@dataclass(slots=True)
class _Mouth:
    """Speaks an answer while it is written, and keeps the time that this takes apart."""

    voice: Voice
    stream: SpeechStream
    chunks: list[NDArray[np.int16]] = field(default_factory=list)
    tokens: int = 0
    own: float = 0.0
    first_own: float | None = None
    first_tokens: int | None = None
    first_seconds: float | None = None
    watch: _Watch | None = None

    def say(self, delta: Delta) -> None:
        """What a piece of the answer made certain."""
        self.watch = self.watch or _Watch()
        self.tokens += delta.tokens
        if not self.voice.hidden_width:
            self._take(self.stream.push(delta.text))
        elif delta.hidden_states is not None:
            self._take(self.stream.push_hidden(delta.hidden_states.float().cpu().numpy()))

    def finish(self) -> SpokenAnswer:
        """The whole of it."""
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
    """Puts the question's name before the field that is wrong."""
    try:
        yield
    except InvalidInput as error:
        raise InvalidInput(f"{name}, {error.field}", error.message) from error


def _message(ask: Ask, parts: list[Part]) -> list[Message]:
    return [Message(Role.USER, [*parts, *([ask.text] if ask.text else [])])]


def _options(ask: Ask, voice: Voice | None = None) -> GenerationOptions:
    return GenerationOptions(
        sampling=SamplingParams(max_tokens=ask.max_tokens or None),
        adapter=ask.adapter,
        keep_rate=ask.keep_rate,
        blocks=ask.blocks,
        hidden_states=voice is not None and voice.hidden_width > 0,
    )


def _seen(ask: Ask, encoder: VisionEncoder) -> list[Part]:
    parts: list[Part] = []
    with torch.inference_mode():
        for path in ask.images:
            tokens = encoder.encode([decode_image(path.read_bytes(), max_pixels=MAX_PIXELS)])[0]
            parts.append(VisionPart(tokens.tokens, tokens.grid))
        for path in ask.videos:
            frames = sample_frames(path, max_frames=MAX_FRAMES, max_seconds=MAX_AUDIO_SECONDS, max_pixels=MAX_PIXELS)
            tokens = encoder.encode_video(frames)
            parts.append(VisionPart(tokens.tokens, tokens.grid))
    return parts


def _heard_key(ask: Ask) -> tuple[str, ...]:
    """What speech tokens of recordings depend on; empty where there are videos, or nothing."""
    return (ask.adapter, *(sound.key for sound in ask.sounds)) if ask.sounds and not ask.videos else ()


def _speech_parts(
    recordings: list[torch.Tensor], named: str, encoder: SpeechEncoder, model: LanguageModel
) -> list[Part]:
    """All clips of all recordings, by the projector that the gateway's pipeline would choose."""
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
