"""Prompts that are all different, so that no side answers from a cache what it has not been asked in this repeat."""

from bisect import bisect_right
from itertools import cycle, islice

import torch
from tokenizers import Tokenizer

from model_core.language.chat_template import ChatTemplate, render
from model_core.language.messages import Message, Role, SpeechPart
from model_core.language.splicing import lay_out

_THINGS = (
    "clock", "bridge", "radio", "engine", "camera", "pump", "fridge", "kite", "boat", "train", "lens", "drum", "loom",
    "plough", "windmill", "stove",
)  # fmt: skip
_SENTENCE = (
    "the harbour was quiet when the first boats came back and nobody on the pier asked what they had found because the "
    "weather was turning and every hand was needed to bring the nets the barrels and the lamps under the long roof"
)

SPEECH_TOKENS = 1500  # of five minutes at five tokens a second
CLIPS = 10  # of 30 seconds


def question(number: int) -> str:
    """A question with a long answer; another one for each number."""
    return (
        f"{number}. Explain in detail and step by step how a {_THINGS[number % len(_THINGS)]} works, and who made it."
    )


def conversation(text: str) -> list[Message]:
    """A question as the only message."""
    return [Message(Role.USER, [text])]


def token_ids(messages: list[Message], tokenizer: Tokenizer, template: ChatTemplate) -> list[int]:
    """The tokens that the decoder gets, for peers to get the same."""
    ids: list[int] = lay_out(render(messages, template), tokenizer).ids.tolist()
    return ids


def _text(number: int, words: int) -> str:
    return (
        f"Report {number}. "
        + " ".join(islice(cycle(_SENTENCE.split()), number % 7, number % 7 + words))
        + ". Sum it up."
    )


def text_of(tokens: int, number: int, tokenizer: Tokenizer) -> str:
    """A text of so many tokens, or one or two fewer; its first words differ for each number."""
    lengths = range(tokens)
    words = bisect_right(lengths, tokens, key=lambda count: len(tokenizer.encode(_text(number, count)).ids)) - 1
    return _text(number, words)


def recording(embeddings_VE: torch.Tensor, seed: int) -> SpeechPart:
    """Random speech tokens of five minutes, of the size of token embeddings."""
    generator = torch.Generator().manual_seed(seed)
    tokens_NE = torch.randn(SPEECH_TOKENS, embeddings_VE.shape[1], generator=generator)
    return SpeechPart(tokens_NE * embeddings_VE.float().std().item(), CLIPS)
