"""Chat templates: how a conversation is rendered for each model.

Inside a message vision tokens come first, then speech tokens, then text, as the published checkpoints were trained.
"""

from dataclasses import dataclass

from model_core.errors import InvalidInput
from model_core.language.messages import Message, Part, Role, SpeechPart, VisionPart

DEFAULT_SYSTEM_PROMPT = "You are a helpful assistant."


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatTemplate:
    """The control tokens around the messages of a conversation.

    Args:
        start: Precedes the first message.
        header: Precedes the content of each message; `{role}` is its author.
        end: Follows the content of each message.
        vision: Precedes and follows each picture or video.
        after_vision: Separates pictures from speech.
        stop_tokens: Tokens that end an answer; the first one is what training learns to end with.
        reserved: Control tokens that are escaped in users' text.
    """

    start: str = ""
    header: str
    end: str
    vision: tuple[str, str] = ("", "")
    after_vision: str = ""
    stop_tokens: tuple[str, ...]
    reserved: tuple[str, ...]

    def escape(self, text: str) -> str:
        """A user's text with every control token broken up, so that it cannot open or close a message."""
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


def render(messages: list[Message], template: ChatTemplate = CHATML) -> list[Part]:
    """The conversation as runs of text and tensors, up to the header of the assistant's answer.

    A conversation without a system message gets the default one.

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
    """A conversation that ends with an answer, as runs, each with whether it is an answer: what the loss is taken over.

    Every answer ends with the template's first stop token. With `ended=False` the last one does not: it was cut off.
    """
    stop = template.stop_tokens[0]
    runs: list[tuple[Part, bool]] = []
    asked: list[Part] = [template.start]
    for message in _with_system(messages):
        asked.append(template.header.format(role=message.role))
        if message.role is Role.ASSISTANT:
            answer = "".join(template.escape(part) for part in message.parts if isinstance(part, str))
            runs += [(part, False) for part in _join_texts(asked)]
            runs.append((answer + stop, True))
            asked = [template.end.removeprefix(stop)]
        else:
            asked += [*_content(message.parts, template), template.end]
    if not ended:
        last, _ = runs[-1]
        runs[-1] = (str(last).removesuffix(stop), True)
    return runs


def _with_system(messages: list[Message]) -> list[Message]:
    if messages[0].role is Role.SYSTEM:
        return messages
    return [Message(Role.SYSTEM, [DEFAULT_SYSTEM_PROMPT]), *messages]


def _content(parts: list[Part], template: ChatTemplate) -> list[Part]:
    opened, closed = template.vision
    pictures: list[Part] = [
        piece for part in parts if isinstance(part, VisionPart) for piece in (opened, part, closed) if piece
    ]
    speech: list[Part] = [part for part in parts if isinstance(part, SpeechPart)]
    text = "\n".join(template.escape(part) for part in parts if isinstance(part, str))
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
