"""The projectors of a preset as training uses them: frames to speech tokens, features to vision tokens.

Shapes: S clips, T encoder frames, D encoder width, N speech tokens, V vision rows, E language-model width.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model_core.speech.projector import SpeechProjector

_SPANS = 2


class Projectors(nn.Module):
    """Both projectors of a preset.

    Args:
        speech: None where nothing is heard.
        vision: None where nothing is seen, or the vision encoder has no projector that learns.
        mask_frames: While training, up to two spans of at most so many frames of a clip are zeros (SpecAugment, Park et
            al. 2019), and a tenth of all values.
    """

    def __init__(self, speech: SpeechProjector | None, vision: nn.Module | None, mask_frames: int = 0) -> None:
        super().__init__()
        self.speech = speech
        self.vision = vision
        self.mask_frames = mask_frames

    def speech_tokens(self, frames_STD: Tensor, frame_lengths: Tensor) -> tuple[Tensor, Tensor]:
        """-> tokens [S, N, E], and how many of each clip are its own [S]."""
        assert self.speech is not None, "speech without a speech projector"
        group = self.speech.group
        frames_STD = F.pad(frames_STD, (0, 0, 0, max(group - frames_STD.shape[1], 0)))
        if self.training and self.mask_frames:
            frames_STD = F.dropout(_with_hidden_spans(frames_STD, frame_lengths, self.mask_frames), 0.1)
        lengths = frame_lengths.clamp(min=group)
        return self.speech(frames_STD, lengths.tolist()), lengths // group

    def vision_tokens(self, seen: Tensor) -> Tensor:
        """Features [V, ...] -> tokens [sum of N, E]; tokens stay what they are."""
        return seen if self.vision is None else self.vision(seen).flatten(0, 1)


def _with_hidden_spans(frames_STD: Tensor, lengths: Tensor, longest: int) -> Tensor:
    device, time_T = frames_STD.device, torch.arange(frames_STD.shape[1], device=frames_STD.device)
    hidden_ST = torch.zeros(frames_STD.shape[:2], dtype=torch.bool, device=device)
    for _ in range(_SPANS):
        starts_S = torch.rand(len(lengths), device=device) * lengths.to(device)
        spans_S = torch.rand(len(lengths), device=device) * (longest + 1)
        hidden_ST |= (time_T >= starts_S[:, None]) & (time_T < (starts_S + spans_S)[:, None])
    return frames_STD.masked_fill(hidden_ST[..., None], 0)
