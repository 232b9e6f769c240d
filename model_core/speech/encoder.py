"""Speech in: clips to encoder frames, and frames to speech tokens by the projector of the adapter that will read them.

Shapes: T encoder frames (50 a second), D encoder width, N speech tokens, E language-model width.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from model_core.errors import InvalidInput
from model_core.speech.projector import SpeechProjector
from model_core.speech.transcriber import Transcriber
from model_core.speech.whisper import WhisperEncoder


class SpeechEncoder(nn.Module):
    """Whisper's encoder with one projector per adapter, and its decoder for transcripts."""

    @dataclass(kw_only=True, frozen=True, slots=True)
    class Config:
        model: str
        whisper: WhisperEncoder.Config
        projector: SpeechProjector.Config
        adapters: tuple[str, ...] = ("speech",)

    transcriber: Transcriber

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.model = config.model
        self.token_width = config.projector.model_width
        self.adapters = config.adapters
        self.whisper = config.whisper.build()
        self.projectors = nn.ModuleDict({name: config.projector.build() for name in config.adapters})

    def frames(self, clips: list[Tensor]) -> list[Tensor]:
        """Each [samples] float32 at 16 kHz, at most 30 s -> [T, D] float32; one batch."""
        return self.whisper.encode(clips)

    @torch.inference_mode()
    def encode(self, clips: list[Tensor], adapter: str = "") -> list[Tensor]:
        """Each [samples] float32 at 16 kHz, at most 30 s -> speech tokens [N, E] float32.

        A clip too short to fill one token is padded with silence to one.

        Raises:
            InvalidInput: no projector belongs to `adapter`.
        """
        name = adapter or self.adapters[0]
        if name not in self.projectors:
            raise InvalidInput("adapter", f"{name!r} is not one of {', '.join(self.adapters)}")
        projector = self.projectors[name]
        assert isinstance(projector, SpeechProjector)
        tokens = []
        for frames_TD in self.frames(clips):
            short = max(projector.group - frames_TD.shape[0], 0)
            filled_TD = torch.nn.functional.pad(frames_TD, (0, 0, 0, short))
            tokens.append(projector(filled_TD[None])[0])
        return tokens
