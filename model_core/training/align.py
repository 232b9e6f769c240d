"""Stage 1: projectors learn to say what is heard and seen in the language model's own token embeddings.

The frozen embedding table is the output layer: a token's cosine with each row, times a learned scale, gives its logits.
Speech learns by a CTC loss over the tokens of the transcript; pictures learn that some of their tokens name what they
show. No pass through the language model is needed.

Shapes: B batch, T encoder frames, D encoder width, N speech or vision tokens, E language-model width, V rows in use.
"""

import random
from itertools import groupby

import torch
import torch.nn.functional as F
from tokenizers import Tokenizer
from torch import Tensor, nn

from model_core.speech.projector import SpeechProjector
from model_core.training.loop import batches_of
from model_core.training.recordings import Recording
from model_core.vision.grid import VisionProjector

_BLANK = 0


class EmbeddingCtc(nn.Module):
    """CTC over the rows of an embedding table, with a blank of its own."""

    def __init__(self, table_VE: Tensor) -> None:
        super().__init__()
        self.rows_VE: Tensor
        self.register_buffer("rows_VE", F.normalize(table_VE.float(), dim=-1), persistent=False)
        self.blank_E = nn.Parameter(torch.randn(table_VE.shape[1]) * 0.1)
        self.log_scale = nn.Parameter(torch.tensor(3.0))

    def log_probabilities(self, tokens_BNE: Tensor) -> Tensor:
        """[B, N, E] speech tokens -> [B, N, 1 + V]; index 0 is the blank."""
        outputs = torch.cat((F.normalize(self.blank_E, dim=-1)[None], self.rows_VE))
        cosines = F.normalize(tokens_BNE, dim=-1) @ outputs.T
        return (cosines.float() * self.log_scale.exp()).log_softmax(-1)


class SpeechAlignment:
    """The loss of stage 1 for speech.

    Args:
        projector: What is trained.
        embeddings: The language model's embedding table, [vocabulary, E].
        tokenizer: The language model's.
        recordings: To learn from; their texts decide which rows of the table take part.
        batch: Recordings a step.
    """

    def __init__(
        self,
        projector: SpeechProjector,
        embeddings: Tensor,
        tokenizer: Tokenizer,
        recordings: list[Recording],
        batch: int = 32,
    ) -> None:
        self.tokenizer = tokenizer
        ids = [tokenizer.encode(recording.utterance.text).ids for recording in recordings]
        # A token must be heard a few times before it can be learned; rarer ones leave their recording out.
        self.vocabulary = sorted({token for row in ids for token in row})
        index = {token: 1 + position for position, token in enumerate(self.vocabulary)}
        self.samples = [
            (recording.frames, torch.tensor([index[token] for token in row]))
            for recording, row in zip(recordings, ids, strict=True)
            if len(row) * projector.group <= recording.frames.shape[0]
        ]
        self.projector, self.head = projector, EmbeddingCtc(embeddings[self.vocabulary])
        self.modules = nn.ModuleDict({"projector": self.projector, "head": self.head})
        self._indices = batches_of(len(self.samples), batch, seed=1)

    def loss(self, step: int) -> Tensor:
        """CTC loss of the batch of a step, per transcript token."""
        rng = random.Random(step)
        chosen = [self.samples[index] for index in self._indices(step)]
        # Starting some frames later regroups them: the same recording is never seen twice in quite the same way.
        frames = [frames_TD[rng.randrange(self.projector.group) :] for frames_TD, _ in chosen]
        tokens_BNE = self.projector(F.dropout(nn.utils.rnn.pad_sequence(frames, batch_first=True).float(), 0.1))
        lengths = torch.tensor([len(f) // self.projector.group for f in frames])
        targets = torch.cat([target for _, target in chosen])
        target_lengths = torch.tensor([len(target) for _, target in chosen])
        log_probabilities = self.head.log_probabilities(tokens_BNE).transpose(0, 1)
        return F.ctc_loss(log_probabilities, targets, lengths, target_lengths, _BLANK, "mean", zero_infinity=True)

    @torch.inference_mode()
    def hear(self, frames_TD: Tensor) -> str:
        """Greedy transcript of one recording's frames."""
        log_probabilities = self.head.log_probabilities(self.projector(frames_TD[None].float()))[0]
        path = [index for index, _ in groupby(log_probabilities.argmax(-1).tolist())]
        text: str = self.tokenizer.decode([self.vocabulary[index - 1] for index in path if index != _BLANK])
        return text


class PictureAlignment:
    """The loss of stage 1 for pictures.

    Args:
        projector: What is trained.
        embeddings: The language model's embedding table, [vocabulary, E].
        tokenizer: The language model's.
        pictures: Features [C, H, W] of each, and the words that name it.
        batch: Pictures a step.
    """

    def __init__(
        self,
        projector: VisionProjector,
        embeddings: Tensor,
        tokenizer: Tokenizer,
        pictures: list[tuple[Tensor, str]],
        batch: int = 64,
    ) -> None:
        named = [tokenizer.encode(" " + words).ids for _, words in pictures]
        self.features = [features for features, _ in pictures]
        self.vocabulary = sorted({token for row in named for token in row})
        self.targets_BV = torch.zeros(len(named), len(self.vocabulary))
        for row, ids in enumerate(named):
            for token in ids:
                self.targets_BV[row, self.vocabulary.index(token)] = 1 / len(ids)
        self.projector, self.head = projector, EmbeddingCtc(embeddings[self.vocabulary])
        self.modules = nn.ModuleDict({"projector": self.projector, "head": self.head})
        self._indices = batches_of(len(pictures), batch, seed=3)

    def loss(self, step: int) -> Tensor:
        """Cross-entropy between the words of a picture and those that its tokens say, the best token for each word."""
        chosen = self._indices(step)
        tokens_BNE = self.projector(torch.stack([self.features[index].float() for index in chosen]))
        log_probabilities_BNV = self.head.log_probabilities(tokens_BNE)[..., 1:]
        said_BV = log_probabilities_BNV.max(dim=1).values
        return (self.targets_BV[chosen] * -said_BV).sum(-1).mean()
