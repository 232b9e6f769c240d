"""Prompts: a conversation of text, speech and vision tokens, spliced into one sequence (Lyra, section 3.1).

The template is ChatML. Inside a message vision tokens come first, then speech tokens, then text, each kind on a line of
its own, as the published checkpoints were trained.

Shapes: N tokens of a part, L positions of the prompt, E language-model width.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum

import torch
from tokenizers import Tokenizer
from torch import Tensor

from model_core.errors import InvalidInput

DEFAULT_SYSTEM_PROMPT = "You are a helpful assistant."
# What the `speech` adapter was trained to follow with the words it heard.
REPEAT_INSTRUCTION = "Repeat what I said."


class Role(StrEnum):
    SYSTEM = "system"
    USER = "user"
    ASSISTANT = "assistant"


@dataclass(frozen=True, slots=True)
class SpeechPart:
    """Speech tokens of one clip or recording, [N, E]."""

    tokens: Tensor


@dataclass(frozen=True, slots=True)
class VisionPart:
    """Vision tokens [time * height * width, E] and their grid."""

    tokens: Tensor
    grid: tuple[int, int, int]


Part = str | SpeechPart | VisionPart


@dataclass(slots=True)
class Message:
    role: Role
    parts: list[Part] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class SplicedPrompt:
    """A prompt ready for the model: embeddings [L, E] and how many of the positions are speech and vision tokens."""

    embeds: Tensor
    speech_tokens: int
    vision_tokens: int


def render(messages: list[Message]) -> list[Part]:
    """The conversation as runs of text and tensors, up to where the assistant's answer begins.

    Raises:
        InvalidInput: there is no message, or none has content.
    """
    if not any(message.parts for message in messages):
        raise InvalidInput("messages", "at least one message with content is needed")
    if messages[0].role is not Role.SYSTEM:
        messages = [Message(Role.SYSTEM, [DEFAULT_SYSTEM_PROMPT]), *messages]
    runs: list[Part] = []
    for message in messages:
        runs.append(f"<|im_start|>{message.role}\n")
        runs += _content(message.parts)
        runs.append("<|im_end|>\n")
    runs.append(f"<|im_start|>{Role.ASSISTANT}\n")
    return _join_texts(runs)


def splice(runs: list[Part], tokenizer: Tokenizer, embed: Callable[[Tensor], Tensor]) -> SplicedPrompt:
    """Embeds the text between the speech and vision tokens.

    Args:
        runs: What `render` made.
        tokenizer: Of the language model.
        embed: Its embedding table, [N] ids -> [N, E].

    Raises:
        InvalidInput: speech or vision tokens have another width than the model.
    """
    pieces, speech, vision = [], 0, 0
    for run in runs:
        if isinstance(run, str):
            pieces.append(embed(torch.tensor(tokenizer.encode(run).ids)))
            continue
        pieces.append(run.tokens.to(pieces[0].dtype))
        if run.tokens.shape[-1] != pieces[0].shape[-1]:
            widths = f"{run.tokens.shape[-1]} where the model has {pieces[0].shape[-1]}"
            raise InvalidInput("tokens", f"speech or vision tokens are {widths} wide")
        if isinstance(run, SpeechPart):
            speech += run.tokens.shape[0]
        else:
            vision += run.tokens.shape[0]
    return SplicedPrompt(torch.cat(pieces), speech, vision)


def _content(parts: list[Part]) -> list[Part]:
    pictures: list[Part] = [part for part in parts if isinstance(part, VisionPart)]
    speech: list[Part] = [part for part in parts if isinstance(part, SpeechPart)]
    text = "\n".join(_plain(part) for part in parts if isinstance(part, str))
    written: list[Part] = [text] if text else []
    groups = [group for group in (pictures, speech, written) if group]
    content = list(groups[0]) if groups else []
    for group in groups[1:]:
        content += ["\n", *group]
    return content


def _plain(text: str) -> str:
    """Keeps a user's text from opening or closing a message."""
    return text.replace("<|im_start|>", "<|im_start |>").replace("<|im_end|>", "<|im_end |>")


def _join_texts(runs: list[Part]) -> list[Part]:
    joined: list[Part] = []
    for run in runs:
        if isinstance(run, str) and joined and isinstance(joined[-1], str):
            joined[-1] += run
        else:
            joined.append(run)
    return joined
