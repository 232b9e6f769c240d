"""Assembles a prompt from the stream that carries it: text, speech tokens and vision tokens, checked part by part."""

from collections.abc import AsyncIterator

import torch

from lyra.v1 import common_pb2, language_model_pb2
from model_core.language.messages import Message, Role, SpeechPart, VisionPart
from services.shared.rpc.tensors import Array, TensorAssembler
from services.shared.rpc.uploads import megabytes
from services.shared.service_errors import InvalidInput

MAX_PARTS = 10_000

_ROLES = {
    language_model_pb2.ROLE_SYSTEM: Role.SYSTEM,
    language_model_pb2.ROLE_USER: Role.USER,
    language_model_pb2.ROLE_ASSISTANT: Role.ASSISTANT,
}


class PromptAssembler:
    """Assembles the messages of one prompt from its requests.

    The clips of a recording arrive in order, with indices from 0, and make one speech part. All recordings of a prompt
    come from the projector of one adapter.

    Args:
        width: The language model's width, which speech and vision tokens must have.
        context_tokens: The language model's context length; more speech and vision tokens are refused as they arrive.
        max_text_bytes: Maximum size of all text together, in UTF-8.
    """

    def __init__(self, *, width: int, context_tokens: int, max_text_bytes: int) -> None:
        self._width = width
        self._context_tokens = context_tokens
        self._max_text_bytes = max_text_bytes
        self._text_bytes = 0
        self._rows = 0
        self._parts = 0
        self._messages: list[Message] = []
        self._adapter: str | None = None
        self._recording: list[Array] = []
        self._next_clip = 0
        self._assembler: TensorAssembler | None = None
        self._grid: tuple[int, int, int] | None = None

    @property
    def adapter(self) -> str:
        """Adapter whose projector made the speech tokens; empty if there are none or they do not name it."""
        return self._adapter or ""

    async def read(self, requests: AsyncIterator[language_model_pb2.GenerateRequest]) -> list[Message]:
        """Reads requests to the end of the stream. Returns the messages of the prompt.

        Raises:
            InvalidInput: a part is missing, out of order, over a limit or has the wrong shape.
        """
        async for request in requests:
            self._add(request)
        self._close_recording()
        self._require_complete()
        if not self._messages:
            raise InvalidInput("messages", "the prompt has no messages")
        return self._messages

    def _add(self, request: language_model_pb2.GenerateRequest) -> None:
        kind = request.WhichOneof("part")
        self._parts += 1
        if self._parts > MAX_PARTS:
            raise InvalidInput("messages", f"the prompt has more than {MAX_PARTS} parts")
        if kind not in ("speech_tokens", "vision_tokens"):
            self._require_complete()
        if kind != "speech_tokens":
            self._close_recording()
        match kind:
            case "message_start":
                self._start_message(request.message_start)
            case "text":
                self._add_text(request.text)
            case "speech_tokens":
                self._add_speech(request.speech_tokens)
            case "vision_tokens":
                self._add_vision(request.vision_tokens)
            case "header":
                raise InvalidInput("header", "only the first message carries the header")
            case _:
                raise InvalidInput("part", "the message is empty")

    def _start_message(self, start: language_model_pb2.MessageStart) -> None:
        role = _ROLES.get(start.role)
        if role is None:
            raise InvalidInput(f"messages[{len(self._messages)}].role", f"role {start.role} is unknown")
        self._messages.append(Message(role=role, parts=[]))

    def _message(self) -> Message:
        if not self._messages:
            raise InvalidInput("message_start", "content arrived before the first message_start")
        return self._messages[-1]

    def _add_text(self, text: str) -> None:
        message = self._message()
        self._text_bytes += len(text.encode())
        if self._text_bytes > self._max_text_bytes:
            raise InvalidInput("messages", f"the text is over the limit of {megabytes(self._max_text_bytes)}")
        message.parts.append(text)

    def _add_speech(self, tokens: common_pb2.SpeechTokens) -> None:
        self._message()
        if self._grid is not None:
            self._require_complete()
        if self._adapter is None:
            self._adapter = tokens.adapter
        elif tokens.adapter != self._adapter:
            raise InvalidInput(
                "speech_tokens.adapter",
                f"{tokens.adapter[:64]!r} after {self._adapter[:64]!r}: all tokens of a prompt come from one projector",
            )
        if self._assembler is None:
            if tokens.clip_index == 0:
                self._close_recording()
            elif tokens.clip_index != self._next_clip:
                raise InvalidInput("speech_tokens.clip_index", f"{tokens.clip_index} where {self._next_clip} is next")
        elif tokens.clip_index != self._next_clip:
            self._require_complete()
        self._next_clip = tokens.clip_index
        rows = self._take(tokens.tokens, "speech_tokens.tokens")
        if rows is not None:
            self._recording.append(rows)
            self._next_clip += 1

    def _add_vision(self, tokens: common_pb2.VisionTokens) -> None:
        message = self._message()
        grid = (tokens.grid_time, tokens.grid_height, tokens.grid_width)
        if self._assembler is not None and grid != self._grid:
            self._require_complete()
        # Without this a side could have any length, and positions are computed for each side.
        if min(grid) < 1 or grid[0] * grid[1] * grid[2] != tokens.tokens.rows_total:
            raise InvalidInput("vision_tokens.grid", f"the grid {grid} does not hold {tokens.tokens.rows_total} tokens")
        self._grid = grid
        rows = self._take(tokens.tokens, "vision_tokens.tokens")
        if rows is not None:
            message.parts.append(VisionPart(tokens=torch.from_numpy(rows), grid=grid))
            self._grid = None

    def _take(self, chunk: common_pb2.TensorChunk, field: str) -> Array | None:
        """Adds a chunk to the current array, or starts one. Returns the array once it is complete."""
        if self._assembler is None:
            room = self._context_tokens - self._rows
            if chunk.rows_total > room:
                total = self._rows + chunk.rows_total
                raise InvalidInput(
                    "messages",
                    f"{total} speech and vision tokens exceed the model's context of {self._context_tokens} tokens",
                )
            self._assembler = TensorAssembler(width=self._width, max_rows=room, field=field)
        self._assembler.add(chunk)
        if not self._assembler.complete:
            return None
        rows, self._assembler = self._assembler.result(), None
        self._rows += len(rows)
        return rows

    def _close_recording(self) -> None:
        if self._recording and self._assembler is None:
            joined = torch.cat([torch.from_numpy(rows) for rows in self._recording])
            self._message().parts.append(SpeechPart(tokens=joined, clips=len(self._recording)))
            self._recording = []
        if self._assembler is None:
            self._next_clip = 0

    def _require_complete(self) -> None:
        if self._assembler is not None:
            self._assembler.result()  # raises, because it is incomplete
