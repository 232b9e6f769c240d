"""Whisper's decoder on a processor, in 8-bit integers, by CTranslate2.

Shapes: T encoder frames, D width.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import ctranslate2
import torch
from torch import Tensor

from model_core.errors import CheckpointError

_GREEDY = 1  # beams


@dataclass(frozen=True, slots=True)
class QuickDraft:
    """A clip's likeliest tokens after the prompt, without the one that ends them; both figures as in Whisper."""

    tokens: list[int]
    mean_log_probability: float
    no_speech_probability: float


class QuickDecoder:
    """Writes the likeliest transcripts, by Whisper's rules for timestamps.

    Args:
        folder: A Whisper in CTranslate2's layout: `model.bin`, `config.json`, `vocabulary.txt`.
        threads: That work on a batch.

    Raises:
        CheckpointError: a file is missing or of another kind.
    """

    def __init__(self, folder: Path, threads: int) -> None:
        try:
            self._model = ctranslate2.models.Whisper(
                str(folder), device="cpu", compute_type="int8", intra_threads=threads
            )
        except (RuntimeError, ValueError) as error:
            raise CheckpointError("model.bin", f"cannot be read: {error}") from error

    def write(
        self, frames: Sequence[Tensor], prompt: list[int], never: list[int], max_first: int, max_tokens: int
    ) -> list[QuickDraft]:
        """One draft a clip.

        Args:
            frames: Of each clip [T, D], all of Whisper's 30 s.
            prompt: What each transcript starts with.
            never: Tokens that none holds.
            max_first: The latest timestamp that one may start with, counted from that of 0.00 s.
            max_tokens: Most tokens of a draft.
        """
        frames_BTD = torch.stack(list(frames)).float().cpu().contiguous().numpy()
        written = self._model.generate(
            ctranslate2.StorageView.from_array(frames_BTD),
            [prompt] * len(frames),
            beam_size=_GREEDY,
            # It halves the length that it is given, so that a prompt of earlier text has room.
            max_length=2 * max_tokens,
            max_initial_timestamp_index=max_first,
            suppress_tokens=never,
            return_scores=True,
            return_no_speech_prob=True,
        )
        return [
            # A score is the mean over the tokens without the end, where Whisper counts it.
            QuickDraft(tokens, each.scores[0] * len(tokens) / (len(tokens) + 1), each.no_speech_prob)
            for each in written
            for tokens in (each.sequences_ids[0],)
        ]
