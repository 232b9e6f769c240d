"""The two batching strategies of the speech encoder: encode, and encode and transcribe."""

from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing
from dataclasses import replace
from functools import partial
from typing import Protocol

from torch import Tensor

from model_core.audio.tensors import Clip
from model_core.speech.encoder import EncodedClip, TranscribedClip
from services.shared.rpc.threads import ModelThread, WorkTimer
from services.speech_encoder.batching import ClipOptions


class Encoder(Protocol):
    """The part of `model_core.speech.encoder.SpeechEncoder` that encodes."""

    @property
    def one_by_one(self) -> bool: ...

    def encode(self, clips: list[Tensor], adapter: str = "") -> list[Tensor]: ...


class TranscribingEncoder(Protocol):
    """The part of `model_core.speech.encoder.SpeechEncoder` that encodes and transcribes."""

    def encode_clips(self, clips: list[Clip], adapters: list[str]) -> list[EncodedClip]: ...

    def transcribe(self, clips: list[EncodedClip], language: str = "") -> Iterator[TranscribedClip | None]: ...


class Encode:
    """Batches clips of the same adapter; the result of a clip is [N, E] float32 tokens on the CPU.

    An encoder that computes clips one by one returns each result as soon as it is computed.

    Args:
        encoder: Turns clips into speech tokens.
        thread: Thread that encodes.
    """

    def __init__(self, encoder: Encoder, thread: ModelThread) -> None:
        self._encoder = encoder
        self._thread = thread

    def batch_key(self, options: ClipOptions) -> str:
        return options.adapter

    def max_in_flight(self, options: ClipOptions, max_batch_clips: int) -> int:
        return max_batch_clips

    async def prepare(self, clip: Clip, options: ClipOptions, work: WorkTimer) -> Tensor:
        return clip.samples

    async def run(self, clips: list[Tensor], key: str, work: WorkTimer) -> AsyncGenerator[Tensor | None, None]:
        size = 1 if self._encoder.one_by_one else len(clips)
        for start in range(0, len(clips), size):
            yield None
            some = clips[start : start + size]
            for tokens_NE in await self._thread.run(work.wrap(partial(self._encode, some, key))):
                yield tokens_NE

    def options_after(self, options: ClipOptions, result: Tensor) -> ClipOptions:
        return options

    def _encode(self, clips: list[Tensor], adapter: str) -> list[Tensor]:
        return [tokens_NE.cpu() for tokens_NE in self._encoder.encode(clips, adapter)]


class EncodeAndTranscribe:
    """Batches clips in the same language: they are encoded one by one while the previous batch is transcribed.

    Args:
        encoder: Turns clips into speech tokens and transcripts.
        thread: Thread that encodes.
        transcriber_thread: Thread that transcribes; other work on it runs between its steps.
    """

    def __init__(self, encoder: TranscribingEncoder, thread: ModelThread, transcriber_thread: ModelThread) -> None:
        self._encoder = encoder
        self._thread = thread
        self._transcriber_thread = transcriber_thread

    def batch_key(self, options: ClipOptions) -> str:
        return options.language

    def max_in_flight(self, options: ClipOptions, max_batch_clips: int) -> int:
        """One until the language is known: it is detected in the first clip that is not silent."""
        return max_batch_clips if options.language else 1

    async def prepare(self, clip: Clip, options: ClipOptions, work: WorkTimer) -> EncodedClip:
        (encoded,) = await self._thread.run(work.wrap(partial(self._encoder.encode_clips, [clip], [options.adapter])))
        return encoded

    async def run(
        self, clips: list[EncodedClip], key: str, work: WorkTimer
    ) -> AsyncGenerator[TranscribedClip | None, None]:
        steps = self._transcriber_thread.iterate(work.wrap_iterator(partial(self._encoder.transcribe, clips, key)))
        async with aclosing(steps) as results:
            async for result in results:
                yield result

    def options_after(self, options: ClipOptions, result: TranscribedClip) -> ClipOptions:
        return replace(options, language=options.language or result.language)
