"""Prompts: a conversation of text, speech and vision tokens, spliced into one sequence (Lyra, section 3.1).

Inside a message vision tokens come first, then speech tokens, then text, as the published checkpoints were trained.

Shapes: N tokens of a part, L positions of the prompt, E language-model width.
"""

from dataclasses import dataclass, field
from enum import StrEnum

import torch
from tokenizers import Tokenizer
from torch import Tensor, nn

from model_core.errors import InvalidInput

DEFAULT_SYSTEM_PROMPT = "You are a helpful assistant."
# What the `speech` adapter was trained to follow with the words it heard.
REPEAT_INSTRUCTION = "Repeat what I said."


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatTemplate:
    """How a conversation is written down for a model.

    Args:
        start: Stands before the first message.
        header: Stands before the content of each message.
        end: Stands behind it.
        vision: Stand before and behind each picture or video.
        after_vision: Stands between pictures and speech.
        stop_tokens: Tokens that end an answer.
        reserved: Tokens that a user's text must not bring in.
    """

    start: str = ""
    header: str
    end: str
    vision: tuple[str, str] = ("", "")
    after_vision: str = ""
    stop_tokens: tuple[str, ...]
    reserved: tuple[str, ...]

    def plain(self, text: str) -> str:
        """A user's text, kept from opening or closing anything of the template."""
        for token in self.reserved:
            text = text.replace(token, f"{token[:-2]} {token[-2:]}")
        return text


CHATML = ChatTemplate(
    header="<|im_start|>{role}\n",
    end="<|im_end|>\n",
    after_vision="\n",
    stop_tokens=("<|im_end|>", "<|endoftext|>"),
    reserved=("<|im_start|>", "<|im_end|>", "<|endoftext|>"),
)
QWEN2_VL = ChatTemplate(
    header="<|im_start|>{role}\n",
    end="<|im_end|>\n",
    vision=("<|vision_start|>", "<|vision_end|>"),
    stop_tokens=("<|im_end|>", "<|endoftext|>"),
    reserved=("<|im_start|>", "<|im_end|>", "<|endoftext|>", "<|vision_start|>", "<|vision_end|>"),
)
LLAMA3 = ChatTemplate(
    start="<|begin_of_text|>",
    header="<|start_header_id|>{role}<|end_header_id|>\n\n",
    end="<|eot_id|>",
    after_vision="\n",
    stop_tokens=("<|eot_id|>", "<|end_of_text|>"),
    reserved=("<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
)


class Role(StrEnum):
    SYSTEM = "system"
    USER = "user"
    ASSISTANT = "assistant"


@dataclass(frozen=True, slots=True)
class SpeechPart:
    """Speech tokens [N, E] of one recording, and how many clips it has."""

    tokens: Tensor
    clips: int = 1


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
    """A prompt ready for the model.

    Attributes:
        embeds: [L, E].
        positions: [3, L] int64, in time, height and width. Text and speech advance all three; the tokens of a picture
            stand at their frame, row and column, and what follows starts one after the largest (Qwen2-VL, section 2.1).
        context: [L] booleans: which are context tokens.
        instruction: [L] booleans: text after the first context token.
        speech_tokens: How many of the positions are speech tokens.
        vision_tokens: How many are vision tokens.
        clips: Clips of all recordings.
    """

    embeds: Tensor
    positions: Tensor
    context: Tensor
    instruction: Tensor
    speech_tokens: int
    vision_tokens: int
    clips: int


@dataclass(frozen=True, slots=True)
class Layout:
    """Where everything of a prompt stands, before anything is embedded.

    Attributes:
        ids: [L] int64 token ids; 0 where a speech or vision token stands.
        positions: As in SplicedPrompt.
        speech: [L] booleans: which are speech tokens.
        vision: [L] booleans: which are vision tokens.
        spans: How many positions each run takes.
    """

    ids: Tensor
    positions: Tensor
    speech: Tensor
    vision: Tensor
    spans: tuple[int, ...]

    @property
    def context(self) -> Tensor:
        """[L] booleans: which are context tokens."""
        return self.speech | self.vision

    @property
    def instruction(self) -> Tensor:
        """[L] booleans: text after the first context token."""
        return (self.context.cumsum(0) > 0) & ~self.context


def render(messages: list[Message], template: ChatTemplate = CHATML) -> list[Part]:
    """The conversation as runs of text and tensors, up to where the assistant's answer begins.

    Raises:
        InvalidInput: there is no message, or none has content.
    """
    if not any(message.parts for message in messages):
        raise InvalidInput("messages", "at least one message with content is needed")
    runs: list[Part] = [template.start]
    for message in _with_system(messages):
        runs += [template.header.format(role=message.role), *_content(message.parts, template), template.end]
    runs.append(template.header.format(role=Role.ASSISTANT))
    return _join_texts(runs)


def render_answered(
    messages: list[Message], template: ChatTemplate = CHATML, *, ended: bool = True
) -> list[tuple[Part, bool]]:
    """A conversation that ends with an answer, as runs, each with whether it is an answer: what training learns.

    Answers end with the template's end token, the last one only where it is `ended`; nothing follows it.
    """
    stop = template.stop_tokens[0]
    runs: list[tuple[Part, bool]] = []
    asked: list[Part] = [template.start]
    for message in _with_system(messages):
        asked.append(template.header.format(role=message.role))
        if message.role is Role.ASSISTANT:
            answer = "".join(template.plain(part) for part in message.parts if isinstance(part, str))
            runs += [(part, False) for part in _join_texts(asked)]
            runs.append((answer + stop, True))
            asked = [template.end.removeprefix(stop)]
        else:
            asked += [*_content(message.parts, template), template.end]
    if not ended:
        last, _ = runs[-1]
        runs[-1] = (str(last).removesuffix(stop), True)
    return runs


def lay_out(runs: list[Part], tokenizer: Tokenizer) -> Layout:
    """Finds the place of each token; of speech and vision parts only their lengths and grids count.

    Args:
        runs: What `render` made.
        tokenizer: Of the language model.
    """
    ids: list[Tensor] = []
    positions: list[Tensor] = []
    start = 0
    for run in runs:
        if isinstance(run, str):
            ids.append(torch.tensor(tokenizer.encode(run, add_special_tokens=False).ids, dtype=torch.long))
        else:
            ids.append(torch.zeros(len(run.tokens), dtype=torch.long))
        grid = run.grid if isinstance(run, VisionPart) else None
        positions.append(start + (_grid_positions(grid) if grid else torch.arange(len(ids[-1])).expand(3, -1)))
        start = int(positions[-1].max()) + 1 if positions[-1].numel() else start
    spans = tuple(len(piece) for piece in ids)
    kinds = list(zip(runs, spans, strict=True))
    return Layout(
        ids=torch.cat(ids),
        positions=torch.cat(positions, dim=1),
        speech=torch.cat([torch.full((span,), isinstance(run, SpeechPart)) for run, span in kinds]),
        vision=torch.cat([torch.full((span,), isinstance(run, VisionPart)) for run, span in kinds]),
        spans=spans,
    )


def splice(runs: list[Part], tokenizer: Tokenizer, embed: nn.Embedding) -> SplicedPrompt:
    """Embeds the text between the speech and vision tokens.

    Args:
        runs: What `render` made.
        tokenizer: Of the language model.
        embed: Its embedding table; everything comes to lie on its device.

    Raises:
        InvalidInput: speech or vision tokens have another width than the model.
    """
    device = embed.weight.device
    parts = [run for run in runs if not isinstance(run, str)]
    for part in parts:
        if part.tokens.shape[-1] != embed.embedding_dim:
            widths = f"{part.tokens.shape[-1]} where the model has {embed.embedding_dim}"
            raise InvalidInput("tokens", f"speech or vision tokens are {widths} wide")
    layout = lay_out(runs, tokenizer)
    context_L = layout.context.to(device)
    embeds_LE = embed(layout.ids.to(device))
    if parts:
        embeds_LE = embeds_LE.masked_scatter(context_L[:, None], torch.cat([p.tokens.to(embeds_LE) for p in parts]))
    return SplicedPrompt(
        embeds=embeds_LE,
        positions=layout.positions.to(device),
        context=context_L,
        instruction=layout.instruction.to(device),
        speech_tokens=int(layout.speech.sum()),
        vision_tokens=int(layout.vision.sum()),
        clips=sum(run.clips for run in runs if isinstance(run, SpeechPart)),
    )


def _with_system(messages: list[Message]) -> list[Message]:
    if messages[0].role is Role.SYSTEM:
        return messages
    return [Message(Role.SYSTEM, [DEFAULT_SYSTEM_PROMPT]), *messages]


def _grid_positions(grid: tuple[int, int, int]) -> Tensor:
    """[3, time * height * width]: frame, row and column of each token of a grid."""
    return torch.cartesian_prod(*(torch.arange(size) for size in grid)).view(-1, 3).T


def _content(parts: list[Part], template: ChatTemplate) -> list[Part]:
    opened, closed = template.vision
    pictures: list[Part] = [
        piece for part in parts if isinstance(part, VisionPart) for piece in (opened, part, closed) if piece
    ]
    speech: list[Part] = [part for part in parts if isinstance(part, SpeechPart)]
    text = "\n".join(template.plain(part) for part in parts if isinstance(part, str))
    content = [*pictures, template.after_vision, *speech] if pictures and speech else pictures + speech
    if content and text:
        content.append("\n")
    return [*content, text]


def _join_texts(runs: list[Part]) -> list[Part]:
    joined: list[Part] = []
    for run in runs:
        if isinstance(run, str) and joined and isinstance(joined[-1], str):
            joined[-1] += run
        elif run != "":
            joined.append(run)
    return joined
