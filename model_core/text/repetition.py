"""Repetition loops at the end of a generated text, which greedy decoding of small models falls into."""

_MIN_REPEATS = 3
_MIN_CHARACTERS = 48  # of all repetitions together: "ha ha ha ha" may be intended
_ENDS = ".!?"
_WINDOW = 600  # last characters


def loop_end(text: str) -> int | None:
    """The end of the first occurrence of what a text then repeats up to its end; None without a loop."""
    tail = text[-_WINDOW:]
    for period in range(1, len(tail) // _MIN_REPEATS + 1):
        if tail.endswith(tail[-period:] * max(_MIN_REPEATS, -(-_MIN_CHARACTERS // period))):
            start = len(text) - period
            while start and text[start - 1] == text[start - 1 + period]:
                start -= 1
            end = start + period
            # The sentence before the loop may end like the repeated one.
            return end + (text[end] in _ENDS and text[end - 1] not in _ENDS)
    return None


def without_loop(text: str) -> str:
    """The text with the loop at its end reduced to one occurrence."""
    end = loop_end(text)
    return text if end is None else text[:end].rstrip(" ,;:-\n")
