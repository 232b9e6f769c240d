"""What published data sets have in common: JSON of known fields, media beside it, questions written or spoken.

Spoken questions are audio files named by their question, in a folder `speech` or `lyra_audios` (as in Lyra-Eval) of
the data set. Where there is no such folder, a voice reads the questions aloud.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from model_core.errors import InvalidInput
from model_core.evaluation.aloud import DEFAULT_READER, read_aloud
from model_core.evaluation.subject import Ask, Sound, SoundFile

SPEECH_FOLDERS = ("speech", "lyra_audios")
_AUDIO_SUFFIXES = (".mp3", ".wav", ".flac", ".ogg", ".opus", ".m4a", ".webm")
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")


@dataclass(frozen=True)
class Item:
    """An object of a data set's JSON, which names itself where something is wrong with it."""

    file: str
    name: str
    values: dict[str, Any]

    def text(self, key: str) -> str:
        """A text that is not empty; numbers become text. Raises InvalidInput."""
        value = self._value(key)
        if isinstance(value, int | float) and not isinstance(value, bool):
            return str(value)
        if not isinstance(value, str) or not value.strip():
            raise self.wrong(key, "must be a text that is not empty")
        return value

    def texts(self, key: str) -> list[str]:
        """A list of texts, at least one. Raises InvalidInput."""
        value = self._value(key)
        if not isinstance(value, list) or not value or not all(isinstance(each, str) for each in value):
            raise self.wrong(key, "must be a list of texts, not empty")
        return value

    def items(self, key: str) -> "Iterator[Item]":
        """A list of objects. Raises InvalidInput."""
        value = self._value(key)
        if not isinstance(value, list):
            raise self.wrong(key, "must be a list")
        for number, each in enumerate(value):
            yield as_item(each, self.file, f"{self.name} {key}[{number}]".strip())

    def wrong(self, key: str, message: str) -> InvalidInput:
        return InvalidInput(f"{self.file}, {self.name}, {key}", message)

    def _value(self, key: str) -> Any:
        if key not in self.values:
            raise self.wrong(key, "is missing")
        return self.values[key]


def as_item(value: Any, file: str, name: str) -> Item:
    """An object, or InvalidInput."""
    if not isinstance(value, dict):
        raise InvalidInput(f"{file}, {name}", "is not a JSON object")
    return Item(file, name, value)


def find_one(folder: Path, *patterns: str) -> Path:
    """The first file of a folder that one of the patterns names, tried in turn. Raises InvalidInput."""
    if not folder.is_dir():
        raise InvalidInput("folder", f"{folder} is not a folder")
    for pattern in patterns:
        if found := sorted(path for path in folder.glob(pattern) if path.is_file()):
            return found[0]
    raise InvalidInput("folder", f"{folder} holds no {' or '.join(patterns)}")


def read_json(path: Path) -> Any:
    """Raises InvalidInput."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise InvalidInput(path.name, f"is not JSON ({error})") from error


def read_data(path: Path, id_key: str) -> list[Item]:
    """Objects of a JSON list, or of the list under `data`; each named by a field. Raises InvalidInput."""
    whole = read_json(path)
    listed = whole.get("data") if isinstance(whole, dict) else whole
    if not isinstance(listed, list) or not listed:
        raise InvalidInput(path.name, "holds no list of questions, or an empty one")
    items = []
    for number, value in enumerate(listed):
        item = as_item(value, path.name, f"question {number + 1}")
        items.append(Item(path.name, f"question {item.text(id_key)}" if id_key else item.name, item.values))
    return items


def media_file(folder: Path, name: str, field: str, suffixes: tuple[str, ...] = ()) -> Path:
    """A file inside a folder, named with or without its suffix. Raises InvalidInput."""
    for candidate in (name, *(name + suffix for suffix in suffixes)):
        path = folder / candidate
        if path.is_file():
            if not path.resolve().is_relative_to(folder.resolve()):
                raise InvalidInput(field, f"{name} lies outside {folder}")
            return path
    raise InvalidInput(field, f"there is no file {folder / name}")


class Questions:
    """How the questions of a data set are put: in writing, by its recordings, or read aloud.

    Args:
        folder: Of the data set.
        written: In writing.
        reader: The voice that reads where there are no recordings.
        home: Where its weights are.
        prompt: A written instruction that goes with every question, such as to answer in a word.
    """

    def __init__(
        self,
        folder: Path,
        *,
        written: bool = False,
        reader: str = DEFAULT_READER,
        home: Path | None = None,
        prompt: str = "",
    ) -> None:
        self._folder, self._written, self._reader, self._home = folder, written, reader, home
        self.prompt = prompt

    @property
    def form(self) -> str:
        """`written`, `recorded` or the reader's name: for results."""
        if self._written:
            return "written"
        return "recorded" if self._recordings is not None else f"read by {self._reader}"

    def ask(self, question_id: str, text: str, **fields: Any) -> Ask:
        """The question as it is put, with other fields of Ask. Raises InvalidInput."""
        name = f"question {question_id}"
        if self._written:
            return Ask(name=name, text="\n".join(filter(None, (text, self.prompt))), **fields)
        return Ask(name=name, text=self.prompt, sounds=(self._sound(question_id, text, name),), **fields)

    def _sound(self, question_id: str, text: str, name: str) -> Sound:
        if self._recordings is None:
            return read_aloud(text, self._reader, self._home)
        if question_id not in self._recordings:
            folder = self._recordings_folder
            raise InvalidInput(name, f"{folder} has no recording {question_id}{_AUDIO_SUFFIXES[0]} (or of that kind)")
        return SoundFile(self._recordings[question_id])

    @cached_property
    def _recordings_folder(self) -> Path | None:
        folders = (self._folder / name for name in SPEECH_FOLDERS)
        return next((folder for folder in folders if folder.is_dir()), None)

    @cached_property
    def _recordings(self) -> dict[str, Path] | None:
        if self._recordings_folder is None:
            return None
        files = sorted(self._recordings_folder.iterdir())
        return {path.stem: path for path in files if path.suffix.lower() in _AUDIO_SUFFIXES}
