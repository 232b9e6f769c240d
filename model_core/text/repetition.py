"""Answers that fall into saying the same again and again, as the likeliest words of small models do."""

_TIMES = 3
_CHARACTERS = 48  # that are repeated at least, all told: "ha ha ha ha" may be meant
_ENDS = ".!?"
_LOOKED_AT = 600  # last characters


def loop_end(text: str) -> int | None:
    """Where a text has said once what it then says again and again up to its end; None where it does not."""
    tail = text[-_LOOKED_AT:]
    for period in range(1, len(tail) // _TIMES + 1):
        if tail.endswith(tail[-period:] * max(_TIMES, -(-_CHARACTERS // period))):
            start = len(text) - period
            while start and text[start - 1] == text[start - 1 + period]:
                start -= 1
            end = start + period
            # The sentence before may end like the one that is repeated.
            return end + (text[end] in _ENDS and text[end - 1] not in _ENDS)
    return None


def without_loop(text: str) -> str:
    """The text with what it repeats at its end said once."""
    end = loop_end(text)
    return text if end is None else text[:end].rstrip(" ,;:-\n")
