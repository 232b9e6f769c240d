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
from model_core.speech.whisper_tokens import MAX_FIRST_TIMESTAMP

_GREEDY = 1  # beams
_FRAMES = 1500  # of 30 s
_CHECKED_ROWS, _CHECKED_TOKENS = 3, 12


@dataclass(frozen=True, slots=True)
class GreedyHypothesis:
    """A clip's likeliest tokens after the prompt, without the one that ends them; both figures as in Whisper."""

    tokens: list[int]
    mean_log_probability: float
    no_speech_probability: float


class CTranslate2Decoder:
    """Writes the likeliest transcripts, by Whisper's rules for timestamps.

    A clip's draft does not depend on the others of its batch: every row is rounded to integers by a scale of its own,
    integers add up the same in any order, and what is left in floats is computed row by row. That holds for all kernels
    that we know; this processor's are tried when the weights are loaded, and where a batch changes a single bit, clips
    are written one after the other.

    Args:
        folder: A Whisper in CTranslate2's layout: `model.bin`, `config.json`, `vocabulary.txt`.
        threads: That work on a batch.
        width: D of the frames.

    Attributes:
        together: Whether a batch is written as one.

    Raises:
        CheckpointError: a file is missing or of another kind.
    """

    def __init__(self, folder: Path, threads: int, width: int) -> None:
        try:
            self._model = ctranslate2.models.Whisper(
                str(folder), device="cpu", compute_type="int8", intra_threads=threads
            )
        except (RuntimeError, ValueError) as error:
            raise CheckpointError("model.bin", f"cannot be read: {error}") from error
        self.together = self._writes_rows_alike(width)

    def write(
        self, frames: Sequence[Tensor], prompt: list[int], never: list[int], max_first: int, max_tokens: int
    ) -> list[GreedyHypothesis]:
        """One draft a clip, the same to the bit whatever else is in the batch.

        Args:
            frames: Of each clip [T, D], all of Whisper's 30 s.
            prompt: What each transcript starts with.
            never: Tokens that none holds.
            max_first: The latest timestamp that one may start with, counted from that of 0.00 s.
            max_tokens: Most tokens of a draft.
        """
        at_a_time = len(frames) if self.together else 1
        drafts: list[GreedyHypothesis] = []
        for at in range(0, len(frames), at_a_time):
            drafts += self._write_batch(frames[at : at + at_a_time], prompt, never, max_first, max_tokens)
        return drafts

    def _write_batch(
        self, frames: Sequence[Tensor], prompt: list[int] | list[str], never: list[int], max_first: int, max_tokens: int
    ) -> list[GreedyHypothesis]:
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
            GreedyHypothesis(tokens, each.scores[0] * len(tokens) / (len(tokens) + 1), each.no_speech_prob)
            for each in written
            for tokens in (each.sequences_ids[0],)
        ]

    def _writes_rows_alike(self, width: int) -> bool:
        """Whether noise gets the same draft and the same probabilities, to the last bit, alone and in a batch."""
        drawn = torch.Generator().manual_seed(0)
        frames = [torch.randn(_FRAMES, width, generator=drawn) for _ in range(_CHECKED_ROWS)]

        def drafts(rows: list[Tensor]) -> list[GreedyHypothesis]:
            return self._write_batch(rows, ["<|startoftranscript|>"], [], MAX_FIRST_TIMESTAMP, _CHECKED_TOKENS)

        return drafts(frames) == [draft for frames_TD in frames for draft in drafts([frames_TD])]
