"""Stage 2: projectors and LoRA adapters learn through the frozen language model to answer what is heard and seen.

Shapes: B batch, L positions, E width, T encoder frames, D encoder width, A answer positions of the whole batch.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model_core.language.engine import LanguageModel
from model_core.language.prompt import Message, Part, Role, SpeechPart, VisionPart, render, splice
from model_core.speech.projector import SpeechProjector
from model_core.training.loop import batches_of
from model_core.vision.grid import VisionProjector

_IGNORED = -100


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One turn: what the user gives, and the answer to learn.

    Args:
        frames: Encoder frames of the user's speech, [T, D].
        picture: Features of the user's picture, [C, H, W].
        text: What the user writes.
        answer: Without the end token.
        ended: Whether the end token belongs to the answer; else it is the beginning of a longer one.
    """

    answer: str
    ended: bool = True
    text: str = ""
    frames: Tensor | None = None
    picture: Tensor | None = None


class Instruction:
    """The loss of stage 2 over samples.

    Args:
        language_model: Its base stays frozen.
        adapter: Adapter that is on and learns.
        samples: To learn from.
        speech_projector: Learns along, where samples hold speech.
        vision_projector: Where samples hold pictures; learns along unless its parameters want no gradients.
        batch: Samples a step.
    """

    def __init__(
        self,
        language_model: LanguageModel,
        adapter: str,
        samples: Sequence[Sample],
        speech_projector: SpeechProjector | None,
        vision_projector: VisionProjector | None,
        batch: int = 8,
    ) -> None:
        self.language_model = language_model
        self.adapter = adapter
        self.samples = samples
        self.speech_projector = speech_projector
        self.vision_projector = vision_projector
        lengths = [_rough_length(sample) for sample in samples]
        self._indices = batches_of(len(samples), batch, seed=2, lengths=lengths)
        decoder = language_model.decoder
        for path, parameter in decoder.named_parameters():
            parameter.requires_grad_(f".adapters.{adapter}." in path)
        parts = {"decoder": decoder, "speech_projector": speech_projector, "vision_projector": vision_projector}
        self.modules = nn.ModuleDict({name: part for name, part in parts.items() if part is not None})

    def loss(self, step: int) -> Tensor:
        """Mean cross-entropy of the answer tokens of the batch of a step."""
        return self.batch_loss([self.samples[index] for index in self._indices(step)])

    def batch_loss(self, samples: Sequence[Sample]) -> Tensor:
        """Mean cross-entropy of the samples' answer tokens."""
        decoder = self.language_model.decoder
        sequences, labels = [], []
        for prompt_LE, answer in zip(self.prompts(samples), self._answers(samples), strict=True):
            # The last answer token is only predicted, never read.
            sequences.append(torch.cat((prompt_LE, decoder.embed_tokens(answer[:-1]))))
            labels.append(F.pad(answer, (len(prompt_LE) - 1, 0), value=_IGNORED))
        embeds_BLE = nn.utils.rnn.pad_sequence(sequences, batch_first=True)
        labels_BL = nn.utils.rnn.pad_sequence(labels, batch_first=True, padding_value=_IGNORED)
        hidden_BLE = decoder(embeds_BLE, adapter=self.adapter)
        # The output layer is nearly a quarter of the model's work: it runs on answer positions only.
        answered_BL = labels_BL != _IGNORED
        return F.cross_entropy(decoder.logits(hidden_BLE[answered_BL]).float(), labels_BL[answered_BL])

    def prompts(self, samples: Sequence[Sample]) -> list[Tensor]:
        """Each sample's prompt as embeddings [L, E]; gradients flow into the projectors."""
        speech, pictures = self._speech_tokens(samples), self._vision_tokens(samples)
        model = self.language_model
        prompts = []
        for row, sample in enumerate(samples):
            parts: list[Part] = []
            if row in pictures:
                side = int(len(pictures[row]) ** 0.5)
                parts.append(VisionPart(pictures[row], (1, side, side)))
            if row in speech:
                parts.append(SpeechPart(speech[row]))
            if sample.text:
                parts.append(sample.text)
            runs = render([Message(Role.USER, parts)])
            prompts.append(splice(runs, model.tokenizer, model.decoder.embed_tokens).embeds)
        return prompts

    def _answers(self, samples: Sequence[Sample]) -> list[Tensor]:
        tokenizer = self.language_model.tokenizer
        texts = [sample.answer + ("<|im_end|>" if sample.ended else "") for sample in samples]
        return [torch.tensor(tokenizer.encode(text).ids) for text in texts]

    def _speech_tokens(self, samples: Sequence[Sample]) -> dict[int, Tensor]:
        frames = {row: sample.frames for row, sample in enumerate(samples) if sample.frames is not None}
        if not frames or self.speech_projector is None:
            return {}
        padded = nn.utils.rnn.pad_sequence([f.float() for f in frames.values()], batch_first=True)
        tokens_BNE = self.speech_projector(padded)
        group = self.speech_projector.group
        return {row: tokens[: len(f) // group] for (row, f), tokens in zip(frames.items(), tokens_BNE, strict=True)}

    def _vision_tokens(self, samples: Sequence[Sample]) -> dict[int, Tensor]:
        pictures = {row: sample.picture for row, sample in enumerate(samples) if sample.picture is not None}
        if not pictures or self.vision_projector is None:
            return {}
        tokens_BNE = self.vision_projector(torch.stack([picture.float() for picture in pictures.values()]))
        return dict(zip(pictures, tokens_BNE, strict=True))


def _rough_length(sample: Sample) -> int:
    speech = 0 if sample.frames is None else len(sample.frames) // 4
    return speech + (len(sample.text) + len(sample.answer)) // 4
