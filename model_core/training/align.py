"""Stage 1 against the embedding table: projectors learn to map speech and images into the language model's embeddings.

The frozen embedding table is the output layer: a token's cosine with each row, times a scale, gives its logits.
The speech projector is trained with a CTC loss over the transcript's tokens, the vision projector so that some of its
tokens name what the image shows. Neither needs a pass through the language model.

Shapes: B clips or images, T encoder frames, N speech or vision tokens, E language-model width, V rows in use,
X tokens of a text.
"""

import math
from collections.abc import Mapping, Sequence
from itertools import groupby, pairwise

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from model_core.training.examples import Batch, Example, collate_media
from model_core.training.projectors import Projectors
from model_core.training.stage_module import StageModule

_BLANK = 0
# At a cosine of 0.8 with its row, a token's probability is then close to 1 among ten thousand rows.
_SCALE = 20.0


class EmbeddingCtc(nn.Module):
    """CTC output layer over the rows of an embedding table and one more for the blank.

    The scale is learned, so that small differences in cosine can separate rows.
    """

    def __init__(self, table_VE: Tensor) -> None:
        super().__init__()
        self.rows_VE: Tensor
        self.register_buffer("rows_VE", F.normalize(table_VE.float(), dim=-1), persistent=False)
        self.blank_E = nn.Parameter(torch.randn(table_VE.shape[1]) * 0.1)
        self.log_scale = nn.Parameter(torch.tensor(math.log(_SCALE)))

    def log_probabilities(self, tokens_BNE: Tensor) -> Tensor:
        """[B, N, E] tokens -> [B, N, 1 + V]; index 0 is the blank."""
        outputs = torch.cat((F.normalize(self.blank_E, dim=-1)[None], self.rows_VE))
        return ((F.normalize(tokens_BNE, dim=-1) @ outputs.T).float() * self.log_scale.exp()).log_softmax(-1)


class Align(StageModule):
    """The loss of stage 1.

    Args:
        projectors: The projectors to train.
        embeddings: The language model's embedding table, [vocabulary, E].
        vocabulary: Token ids in use: those of the training texts.
        pieces: Token ids of the speech projector's pieces, if it has any; transcripts then consist of them.
    """

    part_weights: Mapping[str, float] = {"speech_loss": 1.0, "picture_loss": 1.0}

    def __init__(
        self, projectors: Projectors, embeddings: Tensor, vocabulary: Sequence[int], pieces: Sequence[int] = ()
    ) -> None:
        super().__init__()
        self.projectors = projectors
        self.vocabulary = sorted(set(vocabulary))
        self.head = EmbeddingCtc(embeddings[self.vocabulary])
        self.transcript_vocabulary = list(pieces) or self.vocabulary
        self.index: Tensor
        self.transcript_index: Tensor
        self.register_buffer("index", _places(self.vocabulary, len(embeddings)), persistent=False)
        self.register_buffer("transcript_index", _places(self.transcript_vocabulary, len(embeddings)), persistent=False)

    def forward(
        self,
        frames: Tensor | None = None,
        frame_lengths: Tensor | None = None,
        transcripts: Tensor | None = None,
        transcript_lengths: Tensor | None = None,
        visual_features: Tensor | None = None,
        names: Tensor | None = None,
        name_lengths: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """A batch of `collate_alignment`.

        Returns:
            `loss`, the sum of `speech_loss`, CTC per transcript token, and `picture_loss`, the cross-entropy of the
            words that name an image.
        """
        outputs: dict[str, Tensor] = {}
        if frames is not None and frame_lengths is not None:
            assert transcripts is not None
            assert transcript_lengths is not None
            outputs["speech_loss"] = self._speech_loss(frames, frame_lengths, transcripts, transcript_lengths)
        if visual_features is not None:
            assert names is not None
            assert name_lengths is not None
            outputs["picture_loss"] = self._picture_loss(visual_features, names, name_lengths)
        return {"loss": self.weighted(outputs)} | outputs

    def counts(self, batch: Batch) -> Mapping[str, int]:
        """Recordings and images."""
        named = {"speech_loss": "frame_lengths", "picture_loss": "name_lengths"}
        return {part: len(batch[name]) for part, name in named.items() if name in batch}

    def _speech_loss(self, frames: Tensor, frame_lengths: Tensor, texts: Tensor, text_lengths: Tensor) -> Tensor:
        if self.training and self.projectors.speech is not None:
            # Augmentation: starting some frames later groups the frames differently.
            shift = int(torch.randint(self.projectors.speech.group, ()))
            frames, frame_lengths = frames[:, shift:], frame_lengths - shift
        log_p_BNV, own_BN = self.log_probabilities(frames, frame_lengths)
        targets, counts_B = self.transcript_index[texts], own_BN.sum(-1)
        return F.ctc_loss(
            log_p_BNV.transpose(0, 1), targets, counts_B, text_lengths, _BLANK, "mean", zero_infinity=True
        )

    def log_probabilities(self, frames: Tensor, frame_lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Log-probabilities [B, N, 1 + V] of each group's token, the blank first; a mask of true groups, [B, N]."""
        speech = self.projectors.speech
        if speech is not None and speech.pieces_VE is not None:
            return self.projectors.piece_log_probabilities(frames, frame_lengths)
        speech_tokens = self.projectors.speech_tokens(frames, frame_lengths)
        return self.head.log_probabilities(speech_tokens.tokens), speech_tokens.own

    def _picture_loss(self, visual_features: Tensor, names_BX: Tensor, lengths_B: Tensor) -> Tensor:
        """The cross-entropy of each word of the name with the image token that predicts it best."""
        batch, device = len(visual_features), visual_features.device
        tokens_BNE = rearrange(self.projectors.vision_tokens(visual_features), "(b n) e -> b n e", b=batch)
        log_p_BV = self.head.log_probabilities(tokens_BNE).max(dim=1).values
        words_BX = log_p_BV.gather(1, self.index[names_BX])
        own_BX = torch.arange(names_BX.shape[1], device=device) < lengths_B[:, None].to(device)
        return -(words_BX.masked_fill(~own_BX, 0).sum(-1) / lengths_B).mean()

    @torch.inference_mode()
    def decode(self, frames_TD: Tensor) -> list[int]:
        """Greedy CTC decoding of one recording's frames. Returns token ids."""
        log_p_1NV, _ = self.log_probabilities(frames_TD[None].float(), torch.tensor([len(frames_TD)]))
        path = log_p_1NV[0].argmax(-1).tolist()
        return [self.transcript_vocabulary[index - 1] for index, _ in groupby(path) if index != _BLANK]


def _places(tokens: Sequence[int], count: int) -> Tensor:
    """[count] int64: each token id's position in `tokens`, from 1; 0 for ids that are not in it."""
    places = torch.zeros(count, dtype=torch.long)
    places[list(tokens)] = torch.arange(1, len(tokens) + 1)
    return places


def can_align(tokens: Sequence[int], speech_tokens: int) -> bool:
    """Whether a CTC path exists: one speech token per token, and one for the blank between equal neighbours."""
    return 0 < len(tokens) + sum(a == b for a, b in pairwise(tokens)) <= speech_tokens


def collate_alignment(examples: Sequence[Example], names: Sequence[Tensor]) -> Batch:
    """A batch of clips with transcripts and of images with the token ids of their names."""
    batch = collate_media(
        [clip for example in examples for clip in example.clips],
        [transcript for example in examples for transcript in example.transcripts],
        [values for example in examples for values in example.visual_features],
    )
    named = [name for example, name in zip(examples, names, strict=True) for _ in example.visual_features]
    if named:
        batch["names"] = pad_sequence(named, batch_first=True)
        batch["name_lengths"] = torch.tensor([len(name) for name in named])
    return batch
