"""Learns how long steps take, and how many prompt tokens fit into one beside the answers that are being generated."""

from dataclasses import dataclass, field

_SMOOTHING = 0.1  # weight of the latest step in the moving averages


@dataclass(slots=True)
class CostModel:
    """Moving averages of the seconds of decoding by number of rows, and of prompt chunks by number of tokens.

    Both are kept for powers of two. What has not been measured yet is estimated from the nearest size that has been.

    Args:
        max_tokens: Maximum number of tokens of a step.
        min_tokens: Prompt tokens that fit into any step, so that prompts advance however slow the machine is.
        max_slowdown: How many times as long as without prompt tokens a step may take while answers are being generated,
            if one prompt is read.
    """

    max_tokens: int
    min_tokens: int = 16
    max_slowdown: float = 1.8
    _decode: dict[int, float] = field(default_factory=dict)
    _prompt: dict[int, float] = field(default_factory=dict)

    def observe(self, seconds: float, rows: int, prompt_tokens: float) -> None:
        """Learns from a step.

        Args:
            seconds: Its duration.
            rows: Answers that it advanced.
            prompt_tokens: Prompt tokens that it processed; one that ran through half of the layers counts half.
        """
        if not prompt_tokens:
            _update(self._decode, _size(rows), seconds)
            return
        own = seconds - (self.decode_seconds(rows) if rows else 0.0)
        size = _size(prompt_tokens)
        _update(self._prompt, size, max(own, 0.0) * size / prompt_tokens)

    def forget(self) -> None:
        """Drops what was learned."""
        self._decode.clear()
        self._prompt.clear()

    def decode_seconds(self, rows: int) -> float:
        """Estimated seconds of a step that only advances so many answers."""
        return _estimate(self._decode, _size(rows), proportional=False)

    def prompt_seconds(self, tokens: float) -> float:
        """Estimated seconds that a chunk of so many prompt tokens adds to a step."""
        size = _size(tokens)
        return _estimate(self._prompt, size, proportional=True) * tokens / size

    def prompt_budget(self, rows: int, prompts: int = 1) -> int:
        """How many prompt tokens a step may take that advances so many answers.

        Args:
            rows: Answers.
            prompts: Prompts that are being read; the more requests wait for their first token, the longer others may
                wait for their next.
        """
        if rows == 0 or not self._prompt or not self._decode:
            return self.max_tokens
        allowed = (self.max_slowdown - 1) * self.decode_seconds(rows) * prompts
        tokens = self.min_tokens
        while tokens * 2 <= self.max_tokens and self.prompt_seconds(tokens * 2) <= allowed:
            tokens *= 2
        return tokens

    def answer_seconds(self, prompt_tokens: int, generated_tokens: float, rows: int) -> float:
        """Estimated seconds that a request takes of the engine's time when it shares its steps with others."""
        chunks = self.prompt_seconds(self.max_tokens) * prompt_tokens / self.max_tokens
        return chunks + generated_tokens * self.decode_seconds(rows) / max(rows, 1)


def _size(count: float) -> int:
    """The power of two nearest to `count`, from below in case of doubt."""
    return 1 << max(round(count).bit_length() - 1, 0)


def _update(averages: dict[int, float], size: int, seconds: float) -> None:
    known = averages.get(size)
    averages[size] = seconds if known is None else known + _SMOOTHING * (seconds - known)


def _estimate(averages: dict[int, float], size: int, proportional: bool) -> float:
    if not averages:
        return 0.0
    nearest = min(averages, key=lambda known: abs(known.bit_length() - size.bit_length()))
    return averages[nearest] * (size / nearest if proportional else 1.0)
