"""Stages 2 and 3, and stage 1 through the language model: projectors and adapter learn to answer (Lyra, section 4).

The base model is frozen; with an adapter, PEFT's LoRA is trained together with the projectors. The regularizer pulls
the speech tokens of a recording towards the embeddings of its transcript. With extraction, context tokens are dropped
as at inference.

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
class DecoderInputs:
    """Inputs of the decoder: embeddings [B, L, E] and the fields of `examples.collate`; `context` [B, L] marks the
    tokens that the extractor may drop."""

    embeds: Tensor
    labels: Tensor
    positions: Tensor
    lengths: Tensor
    context: Tensor
    instruction: Tensor

    def without(self, dropped_BL: Tensor) -> "DecoderInputs":
        """The inputs without the positions that are true; later ones move up."""
        own_BL = torch.arange(dropped_BL.shape[1], device=dropped_BL.device) < self.lengths[:, None]
        left_BL = own_BL & ~dropped_BL
        moved = self.positions - dropped_BL.cumsum(1)[..., None]

        def compacted(values: Tensor, padding: float = 0) -> Tensor:
            rows = [row[left_L] for row, left_L in zip(values, left_BL, strict=True)]
            return pad_sequence(rows, batch_first=True, padding_value=padding)

        return DecoderInputs(
            compacted(self.embeds),
            compacted(self.labels, IGNORED),
            compacted(moved),
            left_BL.sum(1),
            compacted(self.context),
            compacted(self.instruction),
        )


class Instruct(StageModule):
    """The loss over batches of conversations.

    Args:
        decoder: With the adapter to train, if any, injected by PEFT; everything else is frozen.
        projectors: Trained if their parameters require gradients.
        regularizer: Weight of the regularizer.
        extraction: Drops context tokens if its keep rate is less than 1.
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
        """Called by the Trainer. Raises InvalidInput for `offload`, which our decoder does not support."""
        if offload:
            raise InvalidInput("offload", "activations are recomputed; moving them to the CPU is not supported")
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
        visual_features: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """A batch of `examples.collate`.

        Returns:
            `loss` and its parts: `answer_loss`, the mean cross-entropy of answer tokens, and, with a regularizer,
            `regularizer_loss` over the batch's recordings with a transcript.
        """
        embeds_BLE = self.decoder.embed_tokens(ids)
        outputs: dict[str, Tensor] = {}
        if frames is not None and frame_lengths is not None:
            spoken = self.projectors.speech_tokens(frames, frame_lengths)
            embeds_BLE = embeds_BLE.masked_scatter(speech[..., None], spoken.tokens[spoken.own].to(embeds_BLE.dtype))
            if self.regularizer and transcripts is not None and transcript_lengths is not None:
                tokens = spoken.without_pauses()
                outputs["regularizer_loss"] = self._regularizer(*tokens, transcripts, transcript_lengths)
        if visual_features is not None:
            tokens_VE = self.projectors.vision_tokens(visual_features)
            embeds_BLE = embeds_BLE.masked_scatter(vision[..., None], tokens_VE.to(embeds_BLE.dtype))
        inputs = DecoderInputs(embeds_BLE, labels, positions, lengths, speech | vision, instruction)
        if frames is not None and spoken.pauses is not None:
            inputs = inputs.without(speech.masked_scatter(speech, ~spoken.kept[spoken.own]))
        hidden_BLE, labels_BL = self._decode(inputs)
        # The output layer is a large part of a small model's compute: it runs on answer positions only.
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

    def _decode(self, inputs: DecoderInputs) -> tuple[Tensor, Tensor]:
        """Hidden states of the positions left after extraction, and their labels."""
        where = inputs.positions.permute(2, 0, 1)
        if self.extraction is None:
            return self.decoder(inputs.embeds, positions=where), inputs.labels
        rows = list(enumerate(inputs.lengths.tolist()))
        extraction = Extraction(
            self.extraction,
            [inputs.context[row, :n] for row, n in rows],
            [inputs.instruction[row, :n] for row, n in rows],
        )
        hidden_BLE = self.decoder(
            inputs.embeds, positions=where, lengths=[length for _, length in rows], extraction=extraction
        )
        kept = [inputs.labels[row][left] for row, left in enumerate(extraction.kept)]
        return hidden_BLE, pad_sequence(kept, batch_first=True, padding_value=IGNORED)

    def _regularizer(self, tokens_SNE: Tensor, counts: Tensor, transcripts: Tensor, lengths: Tensor) -> Tensor:
        known = lengths > 0
        if not known.any():
            return tokens_SNE.new_zeros((), dtype=torch.float32)
        text_SXE = self.decoder.embed_tokens(transcripts[known]).float()
        return regularizer_loss(tokens_SNE[known], text_SXE, counts.to(known.device)[known], lengths[known])
