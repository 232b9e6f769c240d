"""Input and output of benchmarks: manifests and predictions as JSON Lines, a result as one line of JSON.

Paths in a manifest are relative to its folder.
"""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

from model_core.errors import InvalidInput

Progress = Callable[[int, int], None]
"""Called with the number of lines done and in total: first with 0, then after each line."""


@dataclass(frozen=True, slots=True)
class Line:
    """A validated line of a manifest: every required key is a string, and every file exists."""

    number: int
    values: dict[str, Any]
    folder: Path

    def text(self, key: str) -> str:
        value: str = self.values[key]
        return value

    def path(self, key: str) -> Path:
        return self.folder / self.text(key)

    def field(self, key: str) -> str:
        """The name of a value of this line in errors."""
        return f"line {self.number}, {key}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """A metric's value over `count` samples; `subject` are the tags of what was evaluated, `details` further values."""

    metric: str
    value: float
    count: int
    subject: dict[str, str]
    details: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> str:
        """One line of JSON."""
        head = {"metric": self.metric, "value": self.value, "count": self.count, **self.subject}
        return json.dumps(head | self.details)


def read_manifest(
    path: Path, *, texts: tuple[str, ...], files: tuple[str, ...], one_of: tuple[str, ...] = ()
) -> list[Line]:
    """Reads and validates a whole manifest, so that a missing file does not end a run after an hour.

    Args:
        path: The manifest; empty lines are skipped.
        texts: Keys whose values are strings.
        files: Keys whose values are paths of files.
        one_of: Keys of which each line has exactly one.

    Raises:
        InvalidInput: with the line and key.
    """
    if not path.is_file():
        raise InvalidInput("manifest", f"{path} is not a file")
    lines = []
    try:
        for number, raw in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
            if raw.strip():
                lines.append(_read_line(Line(number, _parse(raw, number), path.parent), texts, files, one_of))
    except UnicodeDecodeError as error:
        raise InvalidInput("manifest", f"{path} is not UTF-8 text") from error
    if not lines:
        raise InvalidInput("manifest", f"{path} has no lines")
    return lines


@contextmanager
def prediction_writer(out: Path | None, manifest: Path) -> Iterator[Callable[[Line, dict[str, Any]], None]]:
    """Yields a function that appends a line with its prediction to `out` and flushes; None writes nothing."""
    if out is None:
        yield lambda line, predicted: None
        return
    if out.resolve() == manifest.resolve():
        raise InvalidInput("out", f"{out} is the manifest itself")
    out.parent.mkdir(parents=True, exist_ok=True)
    with out.open("w", encoding="utf-8") as file:
        yield lambda line, predicted: _write(file, line, predicted)


def _write(file: TextIO, line: Line, predicted: dict[str, Any]) -> None:
    file.write(json.dumps(line.values | predicted, ensure_ascii=False) + "\n")
    file.flush()


def _parse(raw: str, number: int) -> dict[str, Any]:
    try:
        values = json.loads(raw)
    except json.JSONDecodeError as error:
        raise InvalidInput(f"line {number}", f"is not JSON ({error})") from error
    if not isinstance(values, dict):
        raise InvalidInput(f"line {number}", "is not a JSON object")
    return values


def _read_line(line: Line, texts: tuple[str, ...], files: tuple[str, ...], one_of: tuple[str, ...]) -> Line:
    if one_of:
        given = [key for key in one_of if key in line.values]
        if len(given) != 1:
            raise InvalidInput(line.field(" or ".join(one_of)), f"exactly one is required, {len(given)} are given")
    for key in (*texts, *files):
        if key in one_of and key not in line.values:
            continue
        if key not in line.values:
            raise InvalidInput(line.field(key), "is missing")
        if not isinstance(line.values[key], str) or not line.values[key].strip():
            raise InvalidInput(line.field(key), "must be a non-empty string")
        if key in files and not line.path(key).is_file():
            raise InvalidInput(line.field(key), f"{line.path(key)} is not a file")
    return line
