"""Speech encoder: clips to encoder frames, and frames to speech tokens by the projector of the adapter that reads them.

Shapes: T encoder frames (50 a second), D encoder width, N speech tokens, E language-model width.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from model_core.adapter_choice import SPEECH, choose_adapter
from model_core.audio.tensors import Clip, is_silent
from model_core.errors import CheckpointError, InvalidInput
from model_core.speech.projector import SpeechProjector
from model_core.speech.segments import Segment
from model_core.speech.transcriber import Transcriber
from model_core.speech.whisper import WhisperEncoder

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")


@dataclass(frozen=True, slots=True)
class EncodedClip:
    """A clip with its speech tokens [N, E] float32, and the frames [T, D] that it can be transcribed from."""

    clip: Clip
    tokens_NE: Tensor
    frames_TD: Tensor


@dataclass(frozen=True, slots=True)
class TranscribedClip:
    """Speech tokens and transcript of a clip.

    Attributes:
        tokens_NE: [N, E] float32.
        segments: The transcript, timed from the start of the recording.
        language: Its code; empty where the clip is silent and no language was requested.
    """

    tokens_NE: Tensor
    segments: list[Segment]
    language: str


class SpeechEncoder(nn.Module):
    """Whisper's encoder with one projector per adapter, and a transcriber where the weights have Whisper's decoder."""

    @dataclass(kw_only=True, frozen=True, slots=True)
    class Config:
        model: str
        whisper: WhisperEncoder.Config
        projector: SpeechProjector.Config
        adapters: tuple[str, ...] = (SPEECH,)

        def build(self) -> "SpeechEncoder":
            return SpeechEncoder(self)

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.model = config.model
        self.token_width = config.projector.model_width
        self.whisper = config.whisper.build()
        self.projectors = nn.ModuleDict({name: config.projector.build() for name in config.adapters})
        self._transcriber: Transcriber | None = None
        self._compute_dtype: torch.dtype | None = None

    def set_compute_dtype(self, dtype: torch.dtype) -> None:
        """Casts the weights that take most of the time: Whisper's layers, projectors, the transcriber's decoder.

        With bfloat16, 1 - cosine similarity of speech tokens stays under a thousandth; on a processor with bfloat16
        instructions it takes about 0.7 of the time.
        """
        self._compute_dtype = dtype
        self.whisper.set_compute_dtype(dtype)
        self.projectors.to(dtype)
        if self._transcriber is not None:
            self._transcriber.set_compute_dtype(dtype)

    @property
    def number_format(self) -> str:
        """The dtype that Whisper's layers and the projectors compute in."""
        return str(self._compute_dtype or self.whisper.conv1.weight.dtype).removeprefix("torch.")

    @property
    def one_by_one(self) -> bool:
        """Whether clips are encoded one at a time even where they share a call, as on a CPU.

        The summation order of CPU kernels depends on the batch size, and in bfloat16 that changes frames enough to
        change words. Whole sentences are even faster alone, without padding and mask; clips of a second are slower.
        """
        return self.whisper.conv1.weight.device.type == "cpu"

    @property
    def adapters(self) -> tuple[str, ...]:
        """Names of the adapters that have a projector."""
        return tuple(self.projectors)

    @property
    def can_transcribe(self) -> bool:
        """Whether the weights include Whisper's decoder."""
        return self._transcriber is not None

    @property
    def transcriber(self) -> Transcriber:
        """Whisper's decoder. Raises InvalidInput where the weights have none."""
        if self._transcriber is None:
            raise InvalidInput("model", f"{self.model} was loaded without a decoder, so it cannot transcribe")
        return self._transcriber

    @transcriber.setter
    def transcriber(self, transcriber: Transcriber | None) -> None:
        self._transcriber = transcriber

    def choose_adapter(self, clips: int) -> str:
        """The adapter for a request with this many clips over all its recordings: `long_speech` for several where its
        projector is loaded, else `speech`."""
        return choose_adapter(self.adapters, clips=clips) or SPEECH

    def add_projector(self, name: str, tensors: Mapping[str, Tensor]) -> None:
        """Adds a projector under an adapter's name. Everything is checked before anything changes.

        Raises:
            InvalidInput: the name is taken or not a valid one.
            CheckpointError: a tensor is missing, unknown, misshapen or not finite.
        """
        self._check_free(name)
        self.projectors[name] = self._projector(tensors)

    def unload_projector(self, name: str) -> None:
        """Removes an adapter's projector. Raises InvalidInput where there is none of that name."""
        self._check_adapter(name)
        del self.projectors[name]

    def frames(self, clips: list[Tensor]) -> list[Tensor]:
        """Each [samples] float32 at 16 kHz, at most 30 s -> [T, D] float32."""
        return [frames for batch in self._batches(clips) for frames in self.whisper.encode(batch)]

    def frames_with_tail(self, clips: list[Tensor]) -> list[Tensor]:
        """As `frames`, followed by the frames of the silence after each clip, which the transcriber needs."""
        return [frames for batch in self._batches(clips) for frames in self.whisper.encode(batch, tail=True)]

    def encode(self, clips: list[Tensor], adapter: str = "") -> list[Tensor]:
        """Each [samples] float32 at 16 kHz, at most 30 s -> speech tokens [N, E] float32.

        A clip too short for one token is padded with silence to one.

        Args:
            clips: Independent of one another, even where they share a batch.
            adapter: Whose projector; empty to choose by the number of clips, as those of one recording.

        Raises:
            InvalidInput: no projector belongs to `adapter`.
        """
        name = adapter or self.choose_adapter(len(clips))
        self._check_adapter(name)
        return [self._project(frames_TD, name) for frames_TD in self.frames(clips)]

    def encode_clips(self, clips: list[Clip], adapters: list[str]) -> list[EncodedClip]:
        """The first half of transcribing: frames and speech tokens, each clip by the projector of its own adapter.

        Raises:
            InvalidInput: no projector belongs to an adapter.
        """
        for name in adapters:
            self._check_adapter(name)
        encoded = []
        for clip, name, frames_TD in zip(
            clips, adapters, self.frames_with_tail([clip.samples for clip in clips]), strict=True
        ):
            own_TD = frames_TD[: self.whisper.frames_of(clip.samples)]
            encoded.append(EncodedClip(clip, self._project(own_TD, name), frames_TD))
        return encoded

    def transcribe(self, clips: list[EncodedClip], language: str = "") -> Iterator[TranscribedClip | None]:
        """The second half of transcribing: the transcript of each clip, all decoded in one batch.

        Args:
            clips: Of any recordings; independent of one another.
            language: Code of the language of all of them; empty to detect it in each.

        Yields:
            None wherever other work may run in between, then one TranscribedClip for each clip, in order.

        Raises:
            InvalidInput: the language is unknown, or the weights have no decoder; raised by the call itself.
        """
        self.transcriber.check_language(language)
        return self._transcribe(clips, language)

    def _transcribe(self, clips: list[EncodedClip], language: str) -> Iterator[TranscribedClip | None]:
        languages = [language] * len(clips)
        rows_by_language: dict[str, list[int]] = {}
        for row, each in enumerate(clips):
            if not is_silent(each.clip.samples):
                languages[row] = language or self.transcriber.detect(each.frames_TD)
                rows_by_language.setdefault(languages[row], []).append(row)
        segments: list[list[Segment]] = [[] for _ in clips]
        for spoken, rows in rows_by_language.items():
            transcripts = yield from self.transcriber.transcribe_batch(
                [clips[row].clip for row in rows], [clips[row].frames_TD for row in rows], spoken
            )
            for row, found in zip(rows, transcripts, strict=True):
                segments[row] = found
        for each, found, spoken in zip(clips, segments, languages, strict=True):
            yield TranscribedClip(each.tokens_NE, found, spoken)

    def _batches(self, clips: list[Tensor]) -> list[list[Tensor]]:
        if self.one_by_one:
            return [[clip] for clip in clips]
        return [clips] if clips else []

    @torch.inference_mode()
    def _project(self, frames_TD: Tensor, adapter: str) -> Tensor:
        """Frames [T, D] -> speech tokens [N, E] float32, N at least 1."""
        projector = self.projectors[adapter]
        assert isinstance(projector, SpeechProjector)
        short = max(projector.group - frames_TD.shape[0], 0)
        filled_TD = torch.nn.functional.pad(frames_TD, (0, 0, 0, short))
        return projector.read(filled_TD.to(projector.linear1.weight.dtype)).float()

    def _projector(self, tensors: Mapping[str, Tensor]) -> SpeechProjector:
        """A projector of this encoder's shape with exactly these weights."""
        with torch.device("meta"):
            projector = self.config.projector.build()
        expected = projector.state_dict()
        for name in sorted(expected.keys() ^ tensors.keys()):
            raise CheckpointError(name, "is missing" if name in expected else "is not a tensor of a speech projector")
        for name, own in expected.items():
            if own.shape != tensors[name].shape:
                raise CheckpointError(name, f"has shape {list(tensors[name].shape)}, expected {list(own.shape)}")
        weight = self.whisper.conv1.weight
        projector.load_state_dict({name: tensors[name].to(weight) for name in expected}, assign=True)
        projector.to(self._compute_dtype)
        return projector.eval().requires_grad_(False)

    def _check_free(self, name: str) -> None:
        if name in self.projectors:
            raise InvalidInput("adapter", f"{name!r} is already resident")
        if not _NAME.fullmatch(name) or hasattr(self.projectors, name):
            raise InvalidInput("adapter", f"{name!r} is not a valid adapter name: 1 to 64 letters, digits, - and _")

    def _check_adapter(self, name: str) -> None:
        if name not in self.projectors:
            raise InvalidInput("adapter", f"{name!r} is not one of {', '.join(self.adapters) or 'none'}")
