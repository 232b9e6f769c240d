"""The projectors in training: encoder frames to speech tokens, visual features to vision tokens.

Shapes: S clips, T encoder frames, D encoder width, N speech tokens, V vision rows, E language-model width.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from model_core.speech.projector import SpeechProjector, token_mask

_SPANS = 2


@dataclass(frozen=True, slots=True)
class SpeechTokens:
    """The speech projector's output for clips.

    Attributes:
        tokens: [S, N, E], one per group of frames; undefined in padding.
        own: [S, N], false in padding.
        pauses: [S, N] log-odds that a group contains no word; None if the projector does not predict pauses.
    """

    tokens: Tensor
    own: Tensor
    pauses: Tensor | None

    @property
    def kept(self) -> Tensor:
        """[S, N], true for groups that become speech tokens."""
        return self.own if self.pauses is None else token_mask(self.pauses, self.own)

    def without_pauses(self) -> tuple[Tensor, Tensor]:
        """The kept tokens, [S, M, E], and their number in each clip, [S]."""
        kept = self.kept
        rows = [tokens_NE[kept_N] for tokens_NE, kept_N in zip(self.tokens, kept, strict=True)]
        return pad_sequence(rows, batch_first=True), kept.sum(-1)


class Projectors(nn.Module):
    """Both projectors of a preset.

    Args:
        speech: None if there is no speech.
        vision: None if there are no images, or the vision encoder has no trainable projector.
        mask_frames: Maximum length of the two spans of frames of a clip that are zeroed in training (SpecAugment, Park
            et al. 2019); a tenth of all values is dropped too. 0 disables both.
    """

    def __init__(self, speech: SpeechProjector | None, vision: nn.Module | None, mask_frames: int = 0) -> None:
        super().__init__()
        self.speech = speech
        self.vision = vision
        self.mask_frames = mask_frames

    def speech_tokens(self, frames_STD: Tensor, frame_lengths: Tensor) -> SpeechTokens:
        """Speech tokens of clips with the given numbers of frames, [S]."""
        assert self.speech is not None, "speech without a speech projector"
        frames_STD, lengths, own_SN = self._prepared(frames_STD, frame_lengths, self.speech.group)
        tokens_SNE, pauses_SN = self.speech.tokens_and_pauses(frames_STD, lengths)
        return SpeechTokens(tokens_SNE, own_SN, pauses_SN)

    def piece_log_probabilities(self, frames_STD: Tensor, frame_lengths: Tensor) -> tuple[Tensor, Tensor]:
        """For projectors whose tokens are mixtures of pieces: log-probabilities [S, N, 1 + V] of each group's piece,
        with "none" first; and a mask of true groups, [S, N]."""
        assert self.speech is not None, "speech without a speech projector"
        frames_STD, lengths, own_SN = self._prepared(frames_STD, frame_lengths, self.speech.group)
        pieces_SNV, pauses_SN = self.speech.piece_log_probs(frames_STD, lengths)
        odds_SN1 = pauses_SN.float()[..., None]
        return torch.cat((F.logsigmoid(odds_SN1), F.logsigmoid(-odds_SN1) + pieces_SNV.float()), dim=-1), own_SN

    def _prepared(self, frames_STD: Tensor, frame_lengths: Tensor, group: int) -> tuple[Tensor, list[int], Tensor]:
        """Frames padded to at least one group, and masked in training; clip lengths; a mask of true groups, [S, N]."""
        frames_STD = F.pad(frames_STD, (0, 0, 0, max(group - frames_STD.shape[1], 0)))
        if self.training and self.mask_frames:
            frames_STD = F.dropout(_with_masked_spans(frames_STD, frame_lengths, self.mask_frames), 0.1)
        lengths = frame_lengths.clamp(min=group)
        count = torch.arange(frames_STD.shape[1] // group, device=frames_STD.device)
        return frames_STD, lengths.tolist(), count < (lengths // group).to(count.device)[:, None]

    def vision_tokens(self, visual_features: Tensor) -> Tensor:
        """Features [V, ...] -> tokens [sum of N, E]; vision tokens are returned unchanged."""
        return visual_features if self.vision is None else self.vision(visual_features).flatten(0, 1)


def _with_masked_spans(frames_STD: Tensor, lengths: Tensor, max_frames: int) -> Tensor:
    device, time_T = frames_STD.device, torch.arange(frames_STD.shape[1], device=frames_STD.device)
    hidden_ST = torch.zeros(frames_STD.shape[:2], dtype=torch.bool, device=device)
    for _ in range(_SPANS):
        starts_S = torch.rand(len(lengths), device=device) * lengths.to(device)
        spans_S = torch.rand(len(lengths), device=device) * (max_frames + 1)
        hidden_ST |= (time_T >= starts_S[:, None]) & (time_T < (starts_S + spans_S)[:, None])
    return frames_STD.masked_fill(hidden_ST[..., None], 0)
