"""Turns tokens into text as they are sampled, and ends the answer at stop strings and loops."""

from collections.abc import Callable

from model_core.text.repetition import loop_end

_INCOMPLETE = "\ufffd"  # what bytes that are no character are decoded to
_MAX_CHARACTER_TOKENS = 4  # a character has at most four bytes, in the worst case a token each


class IncrementalDetokenizer:
    """Text of an answer, token by token; holds back what later tokens may still change.

    That is a character whose bytes are incomplete, and text that may turn out to be the start of a stop string.

    Args:
        decode: Token ids to text.
        stop: Stop strings; they are not part of the text.
        end_loops: Whether to stop, too, once the text repeats itself.

    Attributes:
        stopped: Whether a stop string or a loop has ended the text.
    """

    def __init__(self, decode: Callable[[list[int]], str], stop: tuple[str, ...], end_loops: bool = False) -> None:
        self._decode = decode
        self._stop = stop
        self._end_loops = end_loops
        self._text = ""
        self._pending_tokens: list[int] = []
        self._held_back = ""
        self.stopped = False

    def push(self, token: int) -> str:
        """The text that this token makes final; may be empty."""
        self._pending_tokens.append(token)
        piece = self._decode(self._pending_tokens)
        if piece.endswith(_INCOMPLETE) and len(self._pending_tokens) < _MAX_CHARACTER_TOKENS:
            return ""
        self._pending_tokens.clear()
        self._held_back += piece
        cut = min((at for stop in self._stop if (at := self._held_back.find(stop)) >= 0), default=-1)
        if cut >= 0:
            self.stopped = True
            return self._release(cut)
        if self._end_loops and self._loops(piece):
            self.stopped = True
            return self._release(len(self._held_back))
        overlap = max((_overlap(self._held_back, stop) for stop in self._stop), default=0)
        return self._release(len(self._held_back) - overlap)

    def flush(self) -> str:
        """The text still held back at the end of the answer, without a character that was cut; empty once stopped."""
        if self.stopped:
            return ""
        self._held_back += self._decode(self._pending_tokens).rstrip(_INCOMPLETE)
        return self._release(len(self._held_back))

    def _loops(self, piece: str) -> bool:
        self._text += piece
        return loop_end(self._text) is not None

    def _release(self, count: int) -> str:
        released, self._held_back = self._held_back[:count], self._held_back[count:]
        return released


def _overlap(text: str, stop: str) -> int:
    """Length of the longest proper prefix of `stop` that `text` ends with."""
    return next((n for n in range(min(len(stop) - 1, len(text)), 0, -1) if text.endswith(stop[:n])), 0)
