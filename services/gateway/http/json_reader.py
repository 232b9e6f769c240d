"""JSON whose cost is bounded while it comes.

What parsing costs in time and memory is in the number of values, not of bytes: 40 MB of `[[],[],...` take gigabytes,
40 MB of one recording in base64 next to nothing. So runs of base64 are set aside as they come; what is left of the body
(keys, numbers, texts) may be small, 1 MiB by default, which takes Python's parser under 50 ms and 30 MiB at the worst.
"""

import json
import math
import re
import secrets
from collections.abc import Iterator
from typing import Any

from services.gateway.http.api_errors import ApiError

RUN_BYTES = 1024  # of base64 without a break, from which on it is set aside
_ALPHABET = rb"A-Za-z0-9+/=\\"  # the backslash, as many clients write / as \/
_RUN = re.compile(rb"[%s]*+" % _ALPHABET)
_LETTERS = bytes(code for code in range(256) if _RUN.fullmatch(bytes([code])))
_STRING = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"', re.DOTALL)
_SUSPECT_ESCAPES = re.compile(r"\\u(?:0000|[dD][89a-fA-F])")
_BOM = b"\xef\xbb\xbf"
MAX_VALUES = 50_000  # more than 256 messages of 32 parts have, or an upload of 10,000 parts
MAX_KEYS = 256  # of one object: each that is not known is an error of its own, and costs as such
_BLOCK_BYTES = 64 * 2**10


class JsonReader:
    """Takes one body in pieces. Pieces of any size give the same."""

    def __init__(self, max_plain_bytes: int) -> None:
        """`max_plain_bytes`: of everything that is no long run of base64."""
        self.taken = 0  # bytes
        self._max_plain_bytes = max_plain_bytes
        self._plain = bytearray()
        self._runs: list[list[bytearray]] = []
        self._open: list[bytearray] = []  # what may be a run, or become one
        self._open_bytes = 0
        # Nobody who sends a body can know it, so it cannot be in there.
        self._mark = secrets.token_hex(8)
        self._marks = re.compile(self._mark + "([0-9a-f]+)\\.")

    def feed(self, piece: bytes) -> None:
        """Takes the next piece of the body. Raises ApiError 413 where there is too much beside the media."""
        self.taken += len(piece)
        done = _run_end(piece, 0)
        if done:
            self._extend(piece[:done])
        if done < len(piece):
            self._close_run()
            for start, end in _long_runs(piece, done):
                self._plain += piece[done:start]
                self._extend(piece[start:end])
                if end < len(piece):
                    self._close_run()
                done = end
            # What is left may end in letters that become a run with the next piece.
            rest = piece[done:]
            whole = len(rest) - len(rest.rstrip(_LETTERS))
            self._plain += rest[: len(rest) - whole]
            if whole:
                self._extend(rest[len(rest) - whole :])
        short = self._open_bytes if self._open_bytes < RUN_BYTES else 0
        if len(self._plain) + short > self._max_plain_bytes:
            text = f"The body is over the limit of {self._max_plain_bytes:,} bytes beside its media."
            raise ApiError(413, text, param="body", code="body_too_large")

    def parse(self) -> Any:
        """The value that the body is; can be called once, after the last piece.

        Raises:
            ApiError: 400 where the body is no JSON as RFC 8259 has it, in UTF-8, with each key once in an object, with
                numbers that there are, text that can be written, and fewer levels than Python can recurse (some
                hundred); 413 where it has more than MAX_VALUES values.
        """
        self._close_run()
        data, self._plain = bytes(self._plain), bytearray()
        _check_values(data)
        text = _text(data)
        try:
            value = json.loads(text, object_pairs_hook=_object, parse_constant=_no_constant, parse_float=_finite)
        except RecursionError:
            raise _invalid("The body is nested too deeply.") from None
        except json.JSONDecodeError:
            raise _invalid("The body is not valid JSON.") from None
        except ValueError:  # of int(), for more digits than there is sense in
            raise _invalid("The body has a number that is too large.") from None
        if _SUSPECT_ESCAPES.search(text):
            _check_texts(value)
        return self._filled_in(value) if self._runs else value

    def _extend(self, more: bytes) -> None:
        if self._open and len(self._open[-1]) < _BLOCK_BYTES:
            self._open[-1] += more
        else:
            self._open.append(bytearray(more))
        self._open_bytes += len(more)

    def _close_run(self) -> None:
        pieces, self._open = self._open, []
        if self._open_bytes < RUN_BYTES:
            self._plain += b"".join(pieces)
        else:
            self._set_aside(pieces)
        self._open_bytes = 0

    def _set_aside(self, run: list[bytearray]) -> None:
        """Puts a mark where the run was. A backslash at its end belongs to what follows: an escaped quote."""
        escape = b""
        while run and not run[-1].rstrip(b"\\"):
            escape = bytes(run.pop()) + escape
        if run:
            kept = run[-1].rstrip(b"\\")
            escape, run[-1] = bytes(run[-1][len(kept) :]) + escape, kept
            self._plain += b"%s%x." % (self._mark.encode(), len(self._runs))
            self._runs.append(run)
        self._plain += escape

    def _filled_in(self, value: Any) -> Any:
        """`value` with the runs where their marks are. Lists and objects are changed in place."""
        if isinstance(value, str):
            return self._joined(value) if self._mark in value else value
        for container in _containers(value):
            if isinstance(container, dict) and any(self._mark in key for key in container):
                raise _invalid("The body has a key that is too long.")
            items = container.items() if isinstance(container, dict) else enumerate(container)
            for key, each in list(items):
                if isinstance(each, str) and self._mark in each:
                    container[key] = self._joined(each)
        return value

    def _joined(self, text: str) -> str:
        parts = self._marks.split(text)  # what is around the marks, and their numbers, in turns
        for place in range(1, len(parts), 2):
            parts[place] = _run_text(self._runs[int(parts[place], 16)])
        kept = [part for part in parts if part]
        return kept[0] if len(kept) == 1 else "".join(kept)


def _run_end(piece: bytes, start: int) -> int:
    return matched.end() if (matched := _RUN.match(piece, start)) else start


def _long_runs(piece: bytes, start: int) -> Iterator[tuple[int, int]]:
    """Where runs of RUN_BYTES at least begin and end, from `start` on.

    A run covers one whole step of half its least length wherever it begins, so most bytes need not be looked at.
    """
    step, low = RUN_BYTES // 2, start
    while start + step <= len(piece):
        end = _run_end(piece, start)
        if end - start < step:
            start += step
            continue
        before = piece[max(low, start - step) : start]
        begin = start - (len(before) - len(before.rstrip(_LETTERS)))
        if end - begin >= RUN_BYTES:
            yield begin, end
        start = low = end


def _run_text(pieces: list[bytearray]) -> str:
    """What a run says; its pieces are let go."""
    data = b"".join(pieces)
    pieces.clear()
    if b"\\" not in data:
        return data.decode("ascii")
    try:
        text = json.loads(b'"' + data + b'"')
    except ValueError:
        raise _invalid("The body is not valid JSON.") from None
    _check_texts(text)
    return str(text)


def _check_values(data: bytes) -> None:
    if _values(data) <= MAX_VALUES or _values(_STRING.sub(b"", data)) <= MAX_VALUES:
        return
    text = f"The body is over the limit of {MAX_VALUES:,} values."
    raise ApiError(413, text, param="body", code="body_too_large")


def _values(data: bytes) -> int:
    """Of JSON, at most: one begins a list or an object, or follows a comma."""
    return sum(map(data.count, (b",", b"[", b"{")))


def _text(data: bytes) -> str:
    if data.startswith(_BOM):
        raise _invalid("The body begins with a byte order mark; JSON has none.")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        raise _invalid("The body is not UTF-8.") from None


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(pairs) > MAX_KEYS:
        raise _invalid(f"The body has an object with {len(pairs):,} keys, over the limit of {MAX_KEYS}.")
    members = dict(pairs)
    if len(members) != len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise _invalid(f"The body has the key {twice[:100]!r} twice in one object.")
    return members


def _no_constant(name: str) -> float:
    raise _invalid(f"The body is not valid JSON: {name} is no number in JSON.")


def _finite(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise _invalid("The body has a number that is too large.")
    return number


def _containers(value: Any) -> Iterator[Any]:
    """All lists and objects in `value`, itself among them, outer ones first."""
    waiting = [value] if isinstance(value, list | dict) else []
    while waiting:
        container = waiting.pop()
        yield container
        waiting.extend(each for each in _inside(container) if isinstance(each, list | dict))


def _inside(container: Any) -> Any:
    return container.values() if isinstance(container, dict) else container


def _check_texts(value: Any) -> None:
    """Raises ApiError 400 for half of a surrogate pair, which UTF-8 cannot write, and for NUL, which ends C strings."""
    texts = [value] if isinstance(value, str) else []
    for container in _containers(value):
        texts += (each for each in _inside(container) if isinstance(each, str))
        texts += container if isinstance(container, dict) else ()
    for text in texts:
        if "\0" in text:
            raise _invalid("The body has a text with the character NUL (\\u0000).")
        try:
            text.encode()
        except UnicodeEncodeError:
            raise _invalid("The body has a text with half of a surrogate pair (\\ud800 to \\udfff).") from None


def _invalid(message: str) -> ApiError:
    return ApiError(400, message, code="invalid_json")
