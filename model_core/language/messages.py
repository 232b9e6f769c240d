"""Conversations: messages of text, speech tokens and vision tokens.

Shapes: N tokens of a part, E language-model width.
"""

from dataclasses import dataclass, field
from enum import StrEnum

from torch import Tensor

# The instruction that the `speech` adapter was trained to follow by repeating the recording word for word.
REPEAT_INSTRUCTION = "Repeat what I said."


class Role(StrEnum):
    """Author of a message."""

    SYSTEM = "system"
    USER = "user"
    ASSISTANT = "assistant"


@dataclass(frozen=True, slots=True)
class SpeechPart:
    """Speech tokens of one recording.

    Attributes:
        tokens: [N, E] floats.
        clips: Number of clips that the recording was cut into.
    """

    tokens: Tensor
    clips: int = 1


@dataclass(frozen=True, slots=True)
class VisionPart:
    """Vision tokens of one picture or video.

    Attributes:
        tokens: [time * height * width, E] floats.
        grid: Time, height and width, in tokens.
    """

    tokens: Tensor
    grid: tuple[int, int, int]


Part = str | SpeechPart | VisionPart


@dataclass(slots=True)
class Message:
    """One turn of a conversation, with its parts in the order in which they were sent."""

    role: Role
    parts: list[Part] = field(default_factory=list)
