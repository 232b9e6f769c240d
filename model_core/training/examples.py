"""From conversations to batches: prompts laid out as at inference, answers as labels, media as encoder features.

Shapes: B samples, L positions, S clips, T encoder frames, D encoder width, X transcript tokens, V vision rows.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from tokenizers import Tokenizer
from tokenizers.pre_tokenizers import ByteLevel
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from model_core.data.conversation import IMAGE, SPEECH, VIDEO, split_placeholders
from model_core.data.rows import LightSample
from model_core.errors import InvalidInput
from model_core.language.chat_template import ChatTemplate, render_answered
from model_core.language.messages import Message, Part, SpeechPart, VisionPart
from model_core.language.splicing import lay_out
from model_core.training.features import Features

IGNORED = -100
Batch = dict[str, Tensor]


@dataclass(frozen=True, slots=True)
class Example:
    """A conversation as input of the language model.

    Attributes:
        ids, labels: [L] int64; a label is the next token, or IGNORED if that is not part of an answer.
        positions: [3, L] int64.
        speech, vision, instruction: [L] booleans.
        clips: Encoder frames [T, D] of each clip, in order.
        visual_features: Features of each image, then of each video, in order.
        transcripts: Token ids of each clip's transcript; empty if unknown or if the recording has several clips.
    """

    ids: Tensor
    labels: Tensor
    positions: Tensor
    speech: Tensor
    vision: Tensor
    instruction: Tensor
    clips: tuple[Tensor, ...]
    visual_features: tuple[Tensor, ...]
    transcripts: tuple[Tensor, ...]


class ExampleMaker:
    """Turns conversations into examples for one preset.

    Args:
        tokenizer: The language model's tokenizer.
        template: Its chat template.
        group: Encoder frames per speech token.
        merges: Number of BPE merges in the pieces that the speech projector outputs; None for all of the tokenizer's.

    Attributes:
        transcript_tokenizer: Tokenizer of transcripts.

    Raises:
        InvalidInput: the tokenizer has no merges.
    """

    def __init__(self, tokenizer: Tokenizer, template: ChatTemplate, group: int, merges: int | None = None) -> None:
        self.tokenizer = tokenizer
        self.template = template
        self.group = group
        self.transcript_tokenizer = tokenizer if merges is None else with_merges(tokenizer, merges)

    def __call__(self, sample: LightSample, features: Features) -> Example:
        """The example of a sample; its input omits the last answer token, which is only a label."""
        messages = [Message(turn.role) for turn in sample.turns]
        clips, pictures = iter(features.clips), iter(features.grids[: sample.images])
        videos = iter(features.grids[sample.images :])
        for turn, message in zip(sample.turns, messages, strict=True):
            for piece in split_placeholders(turn.text):
                if piece == SPEECH:
                    message.parts += [SpeechPart(torch.empty(self._tokens(clip), 0)) for clip in next(clips)]
                elif piece in (IMAGE, VIDEO):
                    grid = next(pictures if piece == IMAGE else videos)
                    message.parts.append(VisionPart(torch.empty(grid[0] * grid[1] * grid[2], 0), grid))
                elif text := piece.strip():
                    message.parts.append(text)
        runs = render_answered(messages, self.template, ended=sample.ended)
        parts: list[Part] = [part for part, _ in runs]
        layout = lay_out(parts, self.tokenizer)
        answered = [torch.full((n,), answer) for n, (_, answer) in zip(layout.spans, runs, strict=True)]
        labels = layout.ids.masked_fill(~torch.cat(answered), IGNORED)
        return Example(
            ids=layout.ids[:-1],
            labels=labels[1:],
            positions=layout.positions[:, :-1],
            speech=layout.speech[:-1],
            vision=layout.vision[:-1],
            instruction=layout.instruction[:-1],
            clips=tuple(clip for clips in features.clips for clip in clips),
            visual_features=features.visual_features,
            transcripts=self.transcripts(sample, features),
        )

    def transcripts(self, sample: LightSample, features: Features) -> tuple[Tensor, ...]:
        """Token ids of every clip's transcript, as in `Example`."""
        empty = torch.zeros(0, dtype=torch.long)
        found: list[Tensor] = []
        for transcript, clips in zip(sample.transcripts, features.clips, strict=True):
            known = transcript if len(clips) == 1 else ""
            found += [self.transcript(known)] if known else [empty] * len(clips)
        return tuple(found)

    def transcript(self, text: str) -> Tensor:
        """Token ids [X], int64, of a transcript."""
        return _ids(self.transcript_tokenizer, text)

    def encode(self, text: str) -> Tensor:
        """Token ids [X], int64, of written text."""
        return _ids(self.tokenizer, text)

    def _tokens(self, clip_TD: Tensor) -> int:
        return max(len(clip_TD) // self.group, 1)


def with_merges(tokenizer: Tokenizer, count: int) -> Tokenizer:
    """The tokenizer with only its first `count` merges: rarer words are split into more tokens; ids do not change.

    Raises:
        InvalidInput: it is not a BPE tokenizer (Sennrich et al. 2016).
    """
    spec = json.loads(tokenizer.to_str())
    if spec["model"]["type"] != "BPE":
        raise InvalidInput("merges", f"the language model's tokenizer is {spec['model']['type']}, which has none")
    spec["model"]["merges"] = spec["model"]["merges"][:count]
    return Tokenizer.from_str(json.dumps(spec))


def pieces(tokenizer: Tokenizer) -> list[int]:
    """Sorted ids of all tokens that a BPE tokenizer can produce for text: single bytes and the results of merges."""
    model = json.loads(tokenizer.to_str())["model"]
    merged = {"".join(pair) if isinstance(pair, list) else pair.replace(" ", "") for pair in model["merges"]}
    return sorted(model["vocab"][token] for token in {*ByteLevel.alphabet(), *merged} & model["vocab"].keys())


def _ids(tokenizer: Tokenizer, text: str) -> Tensor:
    return torch.tensor(tokenizer.encode(text, add_special_tokens=False).ids, dtype=torch.long)


def collate(examples: Sequence[Example]) -> Batch:
    """A batch of examples, padded on the right; the media of all samples are concatenated in order."""
    batch = {
        "ids": pad_sequence([e.ids for e in examples], batch_first=True),
        "labels": pad_sequence([e.labels for e in examples], batch_first=True, padding_value=IGNORED),
        "positions": pad_sequence([e.positions.T for e in examples], batch_first=True),
        "lengths": torch.tensor([len(e.ids) for e in examples]),
    }
    for name in ("speech", "vision", "instruction"):
        batch[name] = pad_sequence([getattr(e, name) for e in examples], batch_first=True)
    return batch | collate_media(
        [clip for e in examples for clip in e.clips],
        [transcript for e in examples for transcript in e.transcripts],
        [values for e in examples for values in e.visual_features],
    )


def collate_media(clips: Sequence[Tensor], transcripts: Sequence[Tensor], visual_features: Sequence[Tensor]) -> Batch:
    """`frames` [S, T, D], `frame_lengths`, `transcript_lengths` [S], `transcripts` [S, X]; `visual_features` [V, ...].

    A batch without clips, or without images and videos, lacks their entries.
    """
    batch: Batch = {}
    if clips:
        batch["frames"] = pad_sequence([clip.float() for clip in clips], batch_first=True)
        batch["frame_lengths"] = torch.tensor([len(clip) for clip in clips])
        batch["transcripts"] = pad_sequence(list(transcripts), batch_first=True)
        batch["transcript_lengths"] = torch.tensor([len(transcript) for transcript in transcripts])
    if visual_features:
        batch["visual_features"] = torch.cat([values.float() for values in visual_features])
    return batch
