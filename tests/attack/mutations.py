"""Changes to bytes and to JSON that a fuzzer makes: a valid input with something wrong in it, or noise."""

import json
import random
from collections.abc import Sequence
from typing import Any

# Numbers that break parsers and counters.
_NUMBERS = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF, 2**63 - 1, 2**64 - 1)
_VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 2**31, 2**63, 2**64, -(2**63) - 1, 10**40, 1e308, -0.0, 0.1, float("nan")),
    *(
        float("inf"),
        float("-inf"),
        "",
        " ",
        "\0",
        "a" * 5000,
        "\ud800",
        "\u202e",
        "é" * 100,
        "../../etc/passwd",
        "%s%n",
    ),
    *("data:image/png;base64,AAAA", "media:media-" + "0" * 32, "https://127.0.0.1/", "base", "1e999", "[]", "null"),
    *([], {}, [[]], [None], {"": ""}, {"__proto__": {}}, {"type": "text"}, [1] * 500, {"a": {"a": {"a": {}}}}),
)


def changed_bytes(draw: random.Random, data: bytes, others: Sequence[bytes] = ()) -> bytes:
    """`data` with some bytes changed, removed, duplicated, or swapped with those of another input; or only noise."""
    if draw.random() < 0.05 or not data:
        return draw.randbytes(draw.randrange(0, 300))
    out = bytearray(data)
    for _ in range(draw.choice((1, 1, 1, 2, 5))):
        at = draw.randrange(len(out) + 1)
        match draw.randrange(7):
            case 0:
                for _ in range(draw.randrange(1, 8)):
                    if out:
                        out[draw.randrange(len(out))] = draw.randrange(256)
            case 1:
                del out[at:]
            case 2:
                del out[at : at + draw.randrange(1, 16)]
            case 3:
                out[at:at] = out[at : at + draw.randrange(1, 64)] * draw.randrange(1, 4)
            case 4:
                out[at:at] = draw.randbytes(draw.randrange(1, 16))
            case 5:
                number = draw.choice(_NUMBERS)
                size = draw.choice((1, 2, 4, 8))
                out[at : at + size] = (number % 2 ** (8 * size)).to_bytes(size, draw.choice(("little", "big")))
            case _ if others:
                other = draw.choice(others)
                begin = draw.randrange(len(other) + 1)
                out[at : at + 32] = other[begin : begin + 32]
            case _:
                out.reverse()
    return bytes(out)


def changed_json(draw: random.Random, value: Any) -> bytes:
    """JSON of `value` with some values replaced, and keys dropped, renamed or added; sometimes changed bytes too."""
    changed = json.loads(json.dumps(value))
    for _ in range(draw.choice((1, 1, 2, 4))):
        changed = _changed(draw, changed)
    data = json.dumps(changed).encode()
    if draw.random() < 0.02:
        depth = draw.randrange(10, 5000)
        data = b'{"model":' + b"[" * depth + b"]" * draw.choice((0, depth)) + b"}"
    return changed_bytes(draw, data) if draw.random() < 0.2 else data


def _changed(draw: random.Random, value: Any) -> Any:
    """A copy with one change somewhere."""
    if draw.random() < 0.25 or not isinstance(value, dict | list) or not value:
        return draw.choice(_VALUES)
    if isinstance(value, list):
        row = draw.randrange(len(value))
        return value * 2 if draw.random() < 0.05 else [*value[:row], _changed(draw, value[row]), *value[row + 1 :]]
    key = draw.choice(list(value))
    match draw.randrange(8):
        case 0:
            return {name: each for name, each in value.items() if name != key}
        case 1:
            return {**value, draw.choice(("", "a" * 100, "\0", "__class__", key.upper(), key + " ")): value[key]}
        case _:
            return {**value, key: _changed(draw, value[key])}
