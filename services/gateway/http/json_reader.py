"""An incremental JSON reader with bounded cost.

The cost of parsing depends on the number of values, not of bytes: 40 MB of `[[],[],...` take gigabytes of memory, 40 MB
of base64 in one string next to none. So long runs of base64 are set aside as they arrive, and the rest of the body
(keys, numbers, texts) is limited to 1 MiB by default, which takes Python's parser 50 ms and 30 MiB at worst.
"""

import json
import math
import re
import secrets
from collections.abc import Iterator
from typing import Any

from services.gateway.http.api_errors import ApiError

RUN_BYTES = 1024  # length from which a run of base64 is set aside
_ALPHABET = rb"A-Za-z0-9+/=\\"  # includes the backslash, as many clients escape / as \/
_RUN = re.compile(rb"[%s]*+" % _ALPHABET)
_LETTERS = bytes(code for code in range(256) if _RUN.fullmatch(bytes([code])))
_STRING = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"', re.DOTALL)
_SUSPECT_ESCAPES = re.compile(r"\\u(?:0000|[dD][89a-fA-F])")
_BOM = b"\xef\xbb\xbf"
MAX_VALUES = 50_000  # more than 256 messages of 32 parts, or an upload of 10,000 parts
MAX_KEYS = 256  # per object: validation creates an error for each unknown key
_BLOCK_BYTES = 64 * 2**10


class JsonReader:
    """Reads one body in pieces of any size.

    Args:
        max_plain_bytes: Limit of everything but long runs of base64.
    """

    def __init__(self, max_plain_bytes: int) -> None:
        self.size = 0  # bytes so far
        self._max_plain_bytes = max_plain_bytes
        self._plain = bytearray()
        self._runs: list[list[bytearray]] = []
        self._run: list[bytearray] = []  # the current run, which may still be too short to set aside
        self._run_bytes = 0
        # Random, so that no body can contain it.
        self._placeholder = secrets.token_hex(8)
        self._placeholders = re.compile(self._placeholder + "([0-9a-f]+)\\.")

    def feed(self, piece: bytes) -> None:
        """Reads the next piece of the body. Raises ApiError 413 if there is too much besides the media."""
        self.size += len(piece)
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
            # The rest may end with the start of a run that continues in the next piece.
            rest = piece[done:]
            whole = len(rest) - len(rest.rstrip(_LETTERS))
            self._plain += rest[: len(rest) - whole]
            if whole:
                self._extend(rest[len(rest) - whole :])
        short = self._run_bytes if self._run_bytes < RUN_BYTES else 0
        if len(self._plain) + short > self._max_plain_bytes:
            text = f"The body is over the limit of {self._max_plain_bytes:,} bytes beside its media."
            raise ApiError(413, text, param="body", code="body_too_large")

    def parse(self) -> Any:
        """Parses the body; to be called once, after the last piece.

        Raises:
            ApiError: 400 unless the body is JSON (RFC 8259) in UTF-8 without duplicate keys, numbers out of range,
                NUL characters, lone surrogates or more nesting than Python can recurse (some hundred levels); 413 if
                it has more than MAX_VALUES values.
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
        except ValueError:  # int() refuses thousands of digits
            raise _invalid("The body has a number that is too large.") from None
        if _SUSPECT_ESCAPES.search(text):
            _check_texts(value)
        return self._filled_in(value) if self._runs else value

    def _extend(self, more: bytes) -> None:
        if self._run and len(self._run[-1]) < _BLOCK_BYTES:
            self._run[-1] += more
        else:
            self._run.append(bytearray(more))
        self._run_bytes += len(more)

    def _close_run(self) -> None:
        pieces, self._run = self._run, []
        if self._run_bytes < RUN_BYTES:
            self._plain += b"".join(pieces)
        else:
            self._set_aside(pieces)
        self._run_bytes = 0

    def _set_aside(self, run: list[bytearray]) -> None:
        """Replaces the run by a placeholder. A backslash at its end belongs to what follows: an escaped quote."""
        escape = b""
        while run and not run[-1].rstrip(b"\\"):
            escape = bytes(run.pop()) + escape
        if run:
            kept = run[-1].rstrip(b"\\")
            escape, run[-1] = bytes(run[-1][len(kept) :]) + escape, kept
            self._plain += b"%s%x." % (self._placeholder.encode(), len(self._runs))
            self._runs.append(run)
        self._plain += escape

    def _filled_in(self, value: Any) -> Any:
        """`value` with its placeholders replaced by the runs. Lists and objects are changed in place."""
        if isinstance(value, str):
            return self._joined(value) if self._placeholder in value else value
        for container in _containers(value):
            if isinstance(container, dict) and any(self._placeholder in key for key in container):
                raise _invalid("The body has a key that is too long.")
            items = container.items() if isinstance(container, dict) else enumerate(container)
            for key, each in list(items):
                if isinstance(each, str) and self._placeholder in each:
                    container[key] = self._joined(each)
        return value

    def _joined(self, text: str) -> str:
        parts = self._placeholders.split(text)  # alternates between text and the placeholders' numbers
        for index in range(1, len(parts), 2):
            parts[index] = _run_text(self._runs[int(parts[index], 16)])
        kept = [part for part in parts if part]
        return kept[0] if len(kept) == 1 else "".join(kept)


def _run_end(piece: bytes, start: int) -> int:
    return matched.end() if (matched := _RUN.match(piece, start)) else start


def _long_runs(piece: bytes, start: int) -> Iterator[tuple[int, int]]:
    """Start and end of each run of at least RUN_BYTES, from `start` on.

    Wherever a run starts, it covers one whole step of half the minimum length, so most bytes need not be examined.
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
    """The text of a run; frees its pieces."""
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
    """Upper bound of the number of values: each starts a list or an object, or follows a comma."""
    return sum(map(data.count, (b",", b"[", b"{")))


def _text(data: bytes) -> str:
    if data.startswith(_BOM):
        raise _invalid("The body starts with a byte order mark, which JSON must not have.")
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
    raise _invalid(f"The body is not valid JSON: {name} is not a number in JSON.")


def _finite(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise _invalid("The body has a number that is too large.")
    return number


def _containers(value: Any) -> Iterator[Any]:
    """All lists and objects in `value`, including itself, outer ones first."""
    waiting = [value] if isinstance(value, list | dict) else []
    while waiting:
        container = waiting.pop()
        yield container
        waiting.extend(each for each in _inside(container) if isinstance(each, list | dict))


def _inside(container: Any) -> Any:
    return container.values() if isinstance(container, dict) else container


def _check_texts(value: Any) -> None:
    """Raises ApiError 400 for lone surrogates, which UTF-8 cannot encode, and for NUL, which ends C strings."""
    texts = [value] if isinstance(value, str) else []
    for container in _containers(value):
        texts += (each for each in _inside(container) if isinstance(each, str))
        texts += container if isinstance(container, dict) else ()
    for text in texts:
        if "\0" in text:
            raise _invalid("The body has a string with the character NUL (\\u0000).")
        try:
            text.encode()
        except UnicodeEncodeError:
            raise _invalid("The body has a string with a lone surrogate (\\ud800 to \\udfff).") from None


def _invalid(message: str) -> ApiError:
    return ApiError(400, message, code="invalid_json")
