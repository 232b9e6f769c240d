"""Stage 1 against the embedding table: projectors learn to say what is heard and seen in the model's own embeddings.

The frozen embedding table is the output layer: a token's cosine with each row, times a scale, gives its logits.
Speech learns by a CTC loss over the tokens of the transcript; pictures learn that some of their tokens name what they
show. No pass through the language model is needed.

Shapes: B clips or pictures, T encoder frames, N speech or vision tokens, E language-model width, V rows in use,
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
# A token whose cosine with its row is 0.8 is then nearly sure of it, among ten thousands.
_SCALE = 20.0


class EmbeddingCtc(nn.Module):
    """CTC over the rows of an embedding table, and one more for the blank.

    A learned scale grows until small differences of the cosine tell rows apart.
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
        projectors: What is trained.
        embeddings: The language model's embedding table, [vocabulary, E].
        vocabulary: Token ids that take part: those of the texts to learn from.
        pieces: Token ids of the speech projector's pieces, where it has some; then its transcripts are made of them.
    """

    part_weights: Mapping[str, float] = {"speech_loss": 1.0, "picture_loss": 1.0}

    def __init__(
        self, projectors: Projectors, embeddings: Tensor, vocabulary: Sequence[int], pieces: Sequence[int] = ()
    ) -> None:
        super().__init__()
        self.projectors = projectors
        self.vocabulary = sorted(set(vocabulary))
        self.head = EmbeddingCtc(embeddings[self.vocabulary])
        self.spoken = list(pieces) or self.vocabulary
        self.index: Tensor
        self.spoken_index: Tensor
        self.register_buffer("index", _places(self.vocabulary, len(embeddings)), persistent=False)
        self.register_buffer("spoken_index", _places(self.spoken, len(embeddings)), persistent=False)

    def forward(
        self,
        frames: Tensor | None = None,
        frame_lengths: Tensor | None = None,
        transcripts: Tensor | None = None,
        transcript_lengths: Tensor | None = None,
        seen: Tensor | None = None,
        names: Tensor | None = None,
        name_lengths: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """A batch of `collate_alignment`; `loss` is the sum of `speech_loss`, CTC per transcript token, and
        `picture_loss`, the cross-entropy of the words that name a picture."""
        outputs: dict[str, Tensor] = {}
        if frames is not None and frame_lengths is not None:
            assert transcripts is not None
            assert transcript_lengths is not None
            outputs["speech_loss"] = self._speech_loss(frames, frame_lengths, transcripts, transcript_lengths)
        if seen is not None:
            assert names is not None
            assert name_lengths is not None
            outputs["picture_loss"] = self._picture_loss(seen, names, name_lengths)
        return {"loss": self.weighted(outputs)} | outputs

    def counts(self, batch: Batch) -> Mapping[str, int]:
        """Recordings and pictures."""
        named = {"speech_loss": "frame_lengths", "picture_loss": "name_lengths"}
        return {part: len(batch[name]) for part, name in named.items() if name in batch}

    def _speech_loss(self, frames: Tensor, frame_lengths: Tensor, texts: Tensor, text_lengths: Tensor) -> Tensor:
        if self.training and self.projectors.speech is not None:
            # Starting some frames later regroups them: the same recording is never seen twice in quite the same way.
            shift = int(torch.randint(self.projectors.speech.group, ()))
            frames, frame_lengths = frames[:, shift:], frame_lengths - shift
        said_BNV, own_BN = self.said(frames, frame_lengths)
        targets, counts_B = self.spoken_index[texts], own_BN.sum(-1)
        return F.ctc_loss(said_BNV.transpose(0, 1), targets, counts_B, text_lengths, _BLANK, "mean", zero_infinity=True)

    def said(self, frames: Tensor, frame_lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Log-probabilities [B, N, 1 + V] of what is said in each group, the blank first; a recording's own, [B, N]."""
        speech = self.projectors.speech
        if speech is not None and speech.pieces_VE is not None:
            return self.projectors.spelled(frames, frame_lengths)
        heard = self.projectors.speech_tokens(frames, frame_lengths)
        return self.head.log_probabilities(heard.tokens), heard.own

    def _picture_loss(self, seen: Tensor, names_BX: Tensor, lengths_B: Tensor) -> Tensor:
        """The best token of the picture for each word of its name."""
        tokens_BNE = rearrange(self.projectors.vision_tokens(seen), "(b n) e -> b n e", b=len(seen))
        said_BV = self.head.log_probabilities(tokens_BNE).max(dim=1).values
        words_BX = said_BV.gather(1, self.index[names_BX])
        own_BX = torch.arange(names_BX.shape[1], device=seen.device) < lengths_B[:, None].to(seen.device)
        return -(words_BX.masked_fill(~own_BX, 0).sum(-1) / lengths_B).mean()

    @torch.inference_mode()
    def hear(self, frames_TD: Tensor) -> list[int]:
        """Token ids of the likeliest path through one recording's frames."""
        said_1NV, _ = self.said(frames_TD[None].float(), torch.tensor([len(frames_TD)]))
        return [self.spoken[index - 1] for index, _ in groupby(said_1NV[0].argmax(-1).tolist()) if index != _BLANK]


def _places(tokens: Sequence[int], count: int) -> Tensor:
    """[count] int64: for each token id its place among `tokens`, from 1; 0 where it is none of them."""
    places = torch.zeros(count, dtype=torch.long)
    places[list(tokens)] = torch.arange(1, len(tokens) + 1)
    return places


def can_align(tokens: Sequence[int], speech_tokens: int) -> bool:
    """Whether CTC can find a path: a speech token for each token, and one for the blank between equal ones."""
    return 0 < len(tokens) + sum(a == b for a, b in pairwise(tokens)) <= speech_tokens


def collate_alignment(examples: Sequence[Example], names: Sequence[Tensor]) -> Batch:
    """Clips with their transcripts, pictures with the token ids of what names them; nothing else of the examples."""
    batch = collate_media(
        [clip for example in examples for clip in example.clips],
        [transcript for example in examples for transcript in example.transcripts],
        [values for example in examples for values in example.seen],
    )
    named = [name for example, name in zip(examples, names, strict=True) for _ in example.seen]
    if named:
        batch["names"] = pad_sequence(named, batch_first=True)
        batch["name_lengths"] = torch.tensor([len(name) for name in named])
    return batch
