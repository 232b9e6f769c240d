"""From conversations to batches: text laid out as at inference, answers as labels, media as encoder features.

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
    """A conversation as the language model reads it.

    Attributes:
        ids, labels: [L] int64; a label is the token after its position, IGNORED where that is no part of an answer.
        positions: [3, L] int64.
        speech, vision, instruction: [L] booleans.
        clips: Encoder frames [T, D] of each clip, in their order.
        seen: What the vision encoder made of each picture and video, in their order.
        transcripts: Token ids of each clip's transcript; empty where it is not known, or the recording has more clips.
    """

    ids: Tensor
    labels: Tensor
    positions: Tensor
    speech: Tensor
    vision: Tensor
    instruction: Tensor
    clips: tuple[Tensor, ...]
    seen: tuple[Tensor, ...]
    transcripts: tuple[Tensor, ...]


class ExampleMaker:
    """Lays conversations out for one preset.

    Args:
        tokenizer: Of the language model.
        template: Its chat template.
        group: Encoder frames to a speech token.
        merges: The speech projector says words in pieces of the tokenizer's first so many merges; None for all.

    Attributes:
        heard: Tokenizer of transcripts.

    Raises:
        InvalidInput: the tokenizer has no merges.
    """

    def __init__(self, tokenizer: Tokenizer, template: ChatTemplate, group: int, merges: int | None = None) -> None:
        self.tokenizer = tokenizer
        self.template = template
        self.group = group
        self.heard = tokenizer if merges is None else with_merges(tokenizer, merges)

    def __call__(self, sample: LightSample, features: Features) -> Example:
        """What the model reads, less the last answer token, which is only predicted."""
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
            seen=features.seen,
            transcripts=self.transcripts(sample, features),
        )

    def transcripts(self, sample: LightSample, features: Features) -> tuple[Tensor, ...]:
        """Token ids of the transcript of every clip, as `Example` has them."""
        empty = torch.zeros(0, dtype=torch.long)
        found: list[Tensor] = []
        for transcript, clips in zip(sample.transcripts, features.clips, strict=True):
            known = transcript if len(clips) == 1 else ""
            found += [self.transcript(known)] if known else [empty] * len(clips)
        return tuple(found)

    def transcript(self, text: str) -> Tensor:
        """Token ids [X], int64, of words that are heard."""
        return _ids(self.heard, text)

    def encode(self, text: str) -> Tensor:
        """Token ids [X], int64, of words that are read."""
        return _ids(self.tokenizer, text)

    def _tokens(self, clip_TD: Tensor) -> int:
        return max(len(clip_TD) // self.group, 1)


def with_merges(tokenizer: Tokenizer, count: int) -> Tokenizer:
    """The tokenizer with its first `count` merges only: less common words come apart, into tokens of the same ids.

    Raises:
        InvalidInput: it does not merge pairs (BPE, Sennrich et al. 2016).
    """
    spec = json.loads(tokenizer.to_str())
    if spec["model"]["type"] != "BPE":
        raise InvalidInput("merges", f"the language model's tokenizer is {spec['model']['type']}, which has none")
    spec["model"]["merges"] = spec["model"]["merges"][:count]
    return Tokenizer.from_str(json.dumps(spec))


def pieces(tokenizer: Tokenizer) -> list[int]:
    """Ids of all tokens that texts are made of: single bytes and what merges make of them, in order. BPE only."""
    model = json.loads(tokenizer.to_str())["model"]
    merged = {"".join(pair) if isinstance(pair, list) else pair.replace(" ", "") for pair in model["merges"]}
    return sorted(model["vocab"][token] for token in {*ByteLevel.alphabet(), *merged} & model["vocab"].keys())


def _ids(tokenizer: Tokenizer, text: str) -> Tensor:
    return torch.tensor(tokenizer.encode(text, add_special_tokens=False).ids, dtype=torch.long)


def collate(examples: Sequence[Example]) -> Batch:
    """Examples as one batch of tensors, padded on the right; media of all samples lie in a row, in order."""
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
        [values for e in examples for values in e.seen],
    )


def collate_media(clips: Sequence[Tensor], transcripts: Sequence[Tensor], seen: Sequence[Tensor]) -> Batch:
    """`frames` [S, T, D], `frame_lengths` [S], `transcripts` [S, X], `transcript_lengths` [S]; `seen` [V, ...].

    A batch without clips, or without pictures, lacks their entries.
    """
    batch: Batch = {}
    if clips:
        batch["frames"] = pad_sequence([clip.float() for clip in clips], batch_first=True)
        batch["frame_lengths"] = torch.tensor([len(clip) for clip in clips])
        batch["transcripts"] = pad_sequence(list(transcripts), batch_first=True)
        batch["transcript_lengths"] = torch.tensor([len(transcript) for transcript in transcripts])
    if seen:
        batch["seen"] = torch.cat([values.float() for values in seen])
    return batch
