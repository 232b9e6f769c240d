"""Stages 2 and 3, and stage 1 through the language model: projectors and adapter learn to answer (Lyra, section 4).

The base stays frozen; with an adapter, PEFT's LoRA learns along with the projectors. The regularizer pulls the speech
tokens of a recording towards the embeddings of its transcript. With extraction, context tokens are dropped as at
inference.

Shapes: B samples, L positions, S clips, N speech tokens, E width.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from model_core.errors import InvalidInput
from model_core.language.decoder import Decoder
from model_core.language.extractor import Extraction, ExtractionConfig
from model_core.training.examples import IGNORED, Batch
from model_core.training.projectors import Projectors
from model_core.training.regularizer import regularizer_loss
from model_core.training.stage_module import StageModule


@dataclass(frozen=True, slots=True)
class Reading:
    """What the decoder reads: embeddings [B, L, E], and the fields of `examples.collate`; `context` is what may be
    dropped on the way, [B, L]."""

    embeds: Tensor
    labels: Tensor
    positions: Tensor
    lengths: Tensor
    context: Tensor
    instruction: Tensor

    def without(self, dropped_BL: Tensor) -> "Reading":
        """As if the positions that are true had never been: what follows them moves up."""
        own_BL = torch.arange(dropped_BL.shape[1], device=dropped_BL.device) < self.lengths[:, None]
        left_BL = own_BL & ~dropped_BL
        moved = self.positions - dropped_BL.cumsum(1)[..., None]

        def squeezed(values: Tensor, padding: float = 0) -> Tensor:
            rows = [row[left_L] for row, left_L in zip(values, left_BL, strict=True)]
            return pad_sequence(rows, batch_first=True, padding_value=padding)

        return Reading(
            squeezed(self.embeds),
            squeezed(self.labels, IGNORED),
            squeezed(moved),
            left_BL.sum(1),
            squeezed(self.context),
            squeezed(self.instruction),
        )


class Instruct(StageModule):
    """The loss over batches of conversations.

    Args:
        decoder: With the adapter that learns, if there is one, put in by PEFT; all else is frozen.
        projectors: Learn where their parameters want gradients.
        regularizer: Weight of the regularizer.
        extraction: Drops context tokens, where its keep rate is under 1.
    """

    def __init__(
        self,
        decoder: Decoder,
        projectors: Projectors,
        regularizer: float = 0.0,
        extraction: ExtractionConfig | None = None,
    ) -> None:
        super().__init__()
        self.decoder = decoder
        self.projectors = projectors
        self.regularizer = regularizer
        self.part_weights = {"answer_loss": 1.0} | ({"regularizer_loss": regularizer} if regularizer else {})
        self.extraction = extraction if extraction and extraction.drops else None

    def activation_checkpointing_enable(
        self,
        activation_checkpointing_kwargs: dict[str, object] | None = None,
        every_n_layers: int = 1,
        offload: bool = False,
    ) -> None:
        """Called by the Trainer. Raises InvalidInput for `offload`, which our decoder does not do."""
        if offload:
            raise InvalidInput("offload", "activations are computed again, never moved to the CPU")
        self.decoder.checkpoint_every = every_n_layers

    def forward(
        self,
        ids: Tensor,
        labels: Tensor,
        positions: Tensor,
        lengths: Tensor,
        speech: Tensor,
        vision: Tensor,
        instruction: Tensor,
        frames: Tensor | None = None,
        frame_lengths: Tensor | None = None,
        transcripts: Tensor | None = None,
        transcript_lengths: Tensor | None = None,
        seen: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """A batch of `examples.collate`.

        Returns:
            `loss`, and its parts: `answer_loss`, the mean cross-entropy of answer tokens; where there is one
            `regularizer_loss`, over the recordings of the batch with a transcript.
        """
        embeds_BLE = self.decoder.embed_tokens(ids)
        outputs: dict[str, Tensor] = {}
        if frames is not None and frame_lengths is not None:
            heard = self.projectors.speech_tokens(frames, frame_lengths)
            embeds_BLE = embeds_BLE.masked_scatter(speech[..., None], heard.tokens[heard.own].to(embeds_BLE.dtype))
            if self.regularizer and transcripts is not None and transcript_lengths is not None:
                tokens = heard.without_pauses()
                outputs["regularizer_loss"] = self._regularizer(*tokens, transcripts, transcript_lengths)
        if seen is not None:
            tokens_VE = self.projectors.vision_tokens(seen)
            embeds_BLE = embeds_BLE.masked_scatter(vision[..., None], tokens_VE.to(embeds_BLE.dtype))
        read = Reading(embeds_BLE, labels, positions, lengths, speech | vision, instruction)
        if frames is not None and heard.pauses is not None:
            read = read.without(speech.masked_scatter(speech, ~heard.kept[heard.own]))
        hidden_BLE, labels_BL = self._read(read)
        # The output layer is a good part of a small model's work: it runs on answer positions only.
        answered_BL = labels_BL != IGNORED
        logits = self.decoder.logits(hidden_BLE[answered_BL]).float()
        outputs["answer_loss"] = F.cross_entropy(logits, labels_BL[answered_BL])
        return {"loss": self.weighted(outputs)} | outputs

    def counts(self, batch: Batch) -> Mapping[str, Tensor]:
        """Answer tokens, and recordings with a transcript."""
        counts = {"answer_loss": (batch["labels"] != IGNORED).sum()}
        if self.regularizer and "transcript_lengths" in batch:
            counts["regularizer_loss"] = (batch["transcript_lengths"] > 0).sum()
        return counts

    def _read(self, read: "Reading") -> tuple[Tensor, Tensor]:
        """Hidden states of what is left after extraction, and their labels."""
        where = read.positions.permute(2, 0, 1)
        if self.extraction is None:
            return self.decoder(read.embeds, positions=where), read.labels
        rows = list(enumerate(read.lengths.tolist()))
        dropping = Extraction(
            self.extraction, [read.context[row, :n] for row, n in rows], [read.instruction[row, :n] for row, n in rows]
        )
        hidden_BLE = self.decoder(
            read.embeds, positions=where, lengths=[length for _, length in rows], extraction=dropping
        )
        kept = [read.labels[row][left] for row, left in enumerate(dropping.kept)]
        return hidden_BLE, pad_sequence(kept, batch_first=True, padding_value=IGNORED)

    def _regularizer(self, tokens_SNE: Tensor, counts: Tensor, transcripts: Tensor, lengths: Tensor) -> Tensor:
        known = lengths > 0
        if not known.any():
            return tokens_SNE.new_zeros((), dtype=torch.float32)
        text_SXE = self.decoder.embed_tokens(transcripts[known]).float()
        return regularizer_loss(tokens_SNE[known], text_SXE, counts.to(known.device)[known], lengths[known])
