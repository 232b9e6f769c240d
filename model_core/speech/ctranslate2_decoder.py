"""Whisper's decoder on a CPU in int8, by CTranslate2.

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

_BEAM_SIZE = 1  # greedy
_FRAMES = 1500  # 30 s
_CHECKED_ROWS, _CHECKED_TOKENS = 3, 12


@dataclass(frozen=True, slots=True)
class GreedyHypothesis:
    """Tokens of a clip after the prompt, without the end token; both probabilities are defined as in Whisper."""

    tokens: list[int]
    mean_log_probability: float
    no_speech_probability: float


class CTranslate2Decoder:
    """Greedy decoding by Whisper's timestamp rules.

    A clip's result does not depend on the others of its batch: every row is quantised by a scale of its own, integer
    sums are the same in any order, and the float operations work row by row. That holds for all kernels that we know.
    Those of this processor are tested when the weights are loaded, and where batching changes a single bit, clips are
    decoded one after the other.

    Args:
        folder: A Whisper in CTranslate2's layout: `model.bin`, `config.json`, `vocabulary.txt`.
        threads: Threads for a batch.
        width: D of the frames.

    Attributes:
        batched: Whether clips are decoded in batches.

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
        self.batched = self._is_batch_invariant(width)

    def decode(
        self, frames: Sequence[Tensor], prompt: list[int], suppressed: list[int], max_first: int, max_tokens: int
    ) -> list[GreedyHypothesis]:
        """One hypothesis a clip, the same to the bit whatever else is in the batch.

        Args:
            frames: Of each clip [T, D], all of Whisper's 30 s.
            prompt: Tokens that each transcript starts with.
            suppressed: Tokens that are never generated.
            max_first: Latest timestamp that a transcript may start with, relative to that of 0.00 s.
            max_tokens: Maximum tokens of a hypothesis.
        """
        batch = len(frames) if self.batched else 1
        hypotheses: list[GreedyHypothesis] = []
        for at in range(0, len(frames), batch):
            hypotheses += self._decode_batch(frames[at : at + batch], prompt, suppressed, max_first, max_tokens)
        return hypotheses

    def _decode_batch(
        self,
        frames: Sequence[Tensor],
        prompt: list[int] | list[str],
        suppressed: list[int],
        max_first: int,
        max_tokens: int,
    ) -> list[GreedyHypothesis]:
        frames_BTD = torch.stack(list(frames)).float().cpu().contiguous().numpy()
        results = self._model.generate(
            ctranslate2.StorageView.from_array(frames_BTD),
            [prompt] * len(frames),
            beam_size=_BEAM_SIZE,
            # CTranslate2 halves this length, to leave room for a prompt of earlier text.
            max_length=2 * max_tokens,
            max_initial_timestamp_index=max_first,
            suppress_tokens=suppressed,
            return_scores=True,
            return_no_speech_prob=True,
        )
        return [
            # A score is the mean over the tokens without the end token, which Whisper counts.
            GreedyHypothesis(tokens, each.scores[0] * len(tokens) / (len(tokens) + 1), each.no_speech_prob)
            for each in results
            for tokens in (each.sequences_ids[0],)
        ]

    def _is_batch_invariant(self, width: int) -> bool:
        """Whether noise gives the same tokens and probabilities, to the last bit, alone and in a batch."""
        drawn = torch.Generator().manual_seed(0)
        frames = [torch.randn(_FRAMES, width, generator=drawn) for _ in range(_CHECKED_ROWS)]

        def decoded(rows: list[Tensor]) -> list[GreedyHypothesis]:
            return self._decode_batch(rows, ["<|startoftranscript|>"], [], MAX_FIRST_TIMESTAMP, _CHECKED_TOKENS)

        return decoded(frames) == [one for frames_TD in frames for one in decoded([frames_TD])]
