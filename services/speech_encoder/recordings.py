"""Receives a recording: checks header and limits first, counts bytes as they arrive, then decodes it into clips."""

import hashlib
from collections.abc import AsyncIterator
from dataclasses import dataclass

import torch
from torch import Tensor

from lyra.v1 import speech_encoder_pb2
from model_core.audio.tensors import (
    SAMPLE_RATE,
    Clip,
    decode_pcm16,
    is_silent,
    split_clips,
)
from services.shared.rpc.uploads import Upload
from services.shared.sandbox.cancellation import Cancellation
from services.shared.sandbox.decoders import MIN_AUDIO_SECONDS, Decoders
from services.shared.service_errors import InvalidInput
from services.speech_encoder.settings import SpeechEncoderSettings

MIN_SAMPLE_RATE, MAX_SAMPLE_RATE = 8_000, 48_000
MAX_CHANNELS = 8
BYTES_PER_SAMPLE = 2


@dataclass(frozen=True, slots=True)
class Recording:
    """A decoded recording.

    Attributes:
        seconds: Its duration.
        clips: 16 kHz mono.
        digests: SHA-256 of the samples of each clip.
    """

    seconds: float
    clips: list[Clip]
    digests: list[bytes]

    @classmethod
    def of_samples(cls, samples_S: Tensor, clips: list[Clip]) -> "Recording":
        """A recording with the digests of its clips."""
        digests = [hashlib.sha256(clip.samples.numpy().data).digest() for clip in clips]
        return cls(len(samples_S) / SAMPLE_RATE, clips, digests)


class RecordingReader:
    """Receives and decodes one recording.

    Args:
        header: The encoding of its bytes.
        settings: Limits.

    Raises:
        InvalidInput: The header is invalid.
    """

    def __init__(self, header: speech_encoder_pb2.AudioHeader, settings: SpeechEncoderSettings) -> None:
        encoding = header.WhichOneof("encoding")
        if encoding is None:
            raise InvalidInput("audio.encoding", "one of encoded and pcm must be set")
        self._pcm = header.pcm if encoding == "pcm" else None
        self._of_video = header.encoded.of_video
        self._max_seconds = settings.max_audio_seconds
        max_bytes, limit = settings.max_audio_bytes, ""
        if self._pcm is not None:
            _check_pcm(self._pcm)
            frame_bytes = self._pcm.channels * BYTES_PER_SAMPLE
            pcm_bytes = int(self._max_seconds * self._pcm.sample_rate) * frame_bytes
            if pcm_bytes < max_bytes:
                max_bytes, limit = pcm_bytes, f"{self._max_seconds:g} s"
        self._upload = Upload(max_bytes=max_bytes, field="audio", limit=limit)

    def __enter__(self) -> "RecordingReader":
        return self

    def __exit__(self, *error: object) -> None:
        self._upload.close()

    async def receive(self, pieces: AsyncIterator[bytes]) -> None:
        """Receives the recording's bytes.

        Raises:
            InvalidInput: There were none, or more than the limit.
        """
        await self._upload.receive(pieces)

    def decode(self, decoders: Decoders, tenant: str, cancellation: Cancellation) -> Recording:
        """Decodes what was received; no clips for a video without audio. Blocks: run it in a thread.

        Args:
            decoders: Sandboxed processes that decode files; raw samples need none.
            tenant: Whose recording it is.
            cancellation: Cancelled if the caller disconnects.

        Raises:
            InvalidInput: The file is not audio, or the recording is too long or silent.
            Overloaded, Unavailable, Cancelled: See `Decoders`.
        """
        options = {"max_seconds": self._max_seconds, "tenant": tenant, "cancellation": cancellation}
        if self._of_video:
            track = decoders.samples(self._upload.source(), field="video", of_video=True, min_seconds=0.0, **options)
            samples = torch.from_numpy(track if len(track) >= MIN_AUDIO_SECONDS * SAMPLE_RATE else track[:0])
            return Recording.of_samples(samples, [] if is_silent(samples) else split_clips(samples))
        if self._pcm is None:
            samples = torch.from_numpy(decoders.samples(self._upload.source(), field="audio", **options))
        else:
            samples = decode_pcm16(
                self._upload.read(),
                sample_rate=self._pcm.sample_rate,
                channels=self._pcm.channels,
                max_seconds=self._max_seconds,
            )
        if is_silent(samples):
            raise InvalidInput("audio", "is silent: its peak is below -60 dB of full scale")
        return Recording.of_samples(samples, split_clips(samples))


def _check_pcm(pcm: speech_encoder_pb2.PcmAudio) -> None:
    if not MIN_SAMPLE_RATE <= pcm.sample_rate <= MAX_SAMPLE_RATE:
        raise InvalidInput(
            "audio.pcm.sample_rate", f"{pcm.sample_rate} is outside {MIN_SAMPLE_RATE} to {MAX_SAMPLE_RATE}"
        )
    if not 1 <= pcm.channels <= MAX_CHANNELS:
        raise InvalidInput("audio.pcm.channels", f"{pcm.channels} is outside 1 to {MAX_CHANNELS}")
