"""Choosing the next token."""

from collections.abc import Callable

import torch
from torch import Tensor

from model_core.text.repetition import loop_end


class Sampler:
    """Draws tokens from logits: greedy at temperature 0, else from the smallest set whose probability reaches `top_p`.

    The same seed and logits give the same tokens.
    """

    def __init__(self, temperature: float, top_p: float, seed: int | None) -> None:
        self.temperature = temperature
        self.top_p = top_p
        self.generator = torch.Generator()
        if seed is None:
            self.generator.seed()
        else:
            self.generator.manual_seed(seed % 2**63)

    def pick(self, logits_V: Tensor) -> int:
        """[V] floats -> index of the token."""
        if self.temperature == 0:
            return int(logits_V.argmax())
        probabilities, order = (logits_V.float().cpu() / self.temperature).softmax(-1).sort(descending=True)
        # A token stays while the ones before it have not reached top_p, so that the likeliest always stays.
        probabilities[probabilities.cumsum(-1) - probabilities >= self.top_p] = 0
        return int(order[torch.multinomial(probabilities, 1, generator=self.generator)])


class TextStream:
    """Turns tokens into text as they come, holding back whatever later tokens may still change.

    That is a character whose bytes have not all come, and the beginning of a stop text.

    Args:
        decode: Tokens to text.
        stop: Texts that end it.
        end_loops: Whether it ends, too, where it says the same again and again.
    """

    # A character has at most four bytes, each a token at worst.
    _LONGEST_CHARACTER = 4

    def __init__(self, decode: Callable[[list[int]], str], stop: tuple[str, ...], end_loops: bool = False) -> None:
        self._decode = decode
        self._stop = stop
        self._end_loops = end_loops
        self._text = ""
        self._open_tokens: list[int] = []
        self._held = ""
        self.stopped = False

    def push(self, token: int) -> str:
        """The text that is certain after this token."""
        self._open_tokens.append(token)
        piece = self._decode(self._open_tokens)
        if piece.endswith("\ufffd") and len(self._open_tokens) < self._LONGEST_CHARACTER:
            return ""
        self._open_tokens.clear()
        self._held += piece
        cut = min((at for stop in self._stop if (at := self._held.find(stop)) >= 0), default=-1)
        if cut >= 0:
            self.stopped = True
            return self._release(cut)
        if self._end_loops and self._loops(piece):
            self.stopped = True
            return self._release(len(self._held))
        return self._release(len(self._held) - max((_overlap(self._held, stop) for stop in self._stop), default=0))

    def finish(self) -> str:
        """Whatever was held back and belongs to the answer."""
        if self.stopped:
            return ""
        self._held += self._decode(self._open_tokens)
        return self._release(len(self._held))

    def _loops(self, piece: str) -> bool:
        self._text += piece
        return loop_end(self._text) is not None

    def _release(self, count: int) -> str:
        released, self._held = self._held[:count], self._held[count:]
        return released


def _overlap(text: str, stop: str) -> int:
    """Length of the longest beginning of `stop` that `text` ends with."""
    return next((n for n in range(min(len(stop) - 1, len(text)), 0, -1) if text.endswith(stop[:n])), 0)
