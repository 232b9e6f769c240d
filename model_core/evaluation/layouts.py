"""Common parts of published data sets: JSON with known fields, media files beside it, written or spoken questions.

Spoken questions are audio files named by question id, in the data set's folder `speech` or `lyra_audios` (as in
Lyra-Eval). Without such a folder they are synthesized.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from model_core.errors import InvalidInput
from model_core.evaluation.subject import AudioFile, AudioSource, Question
from model_core.evaluation.tts import DEFAULT_VOICE, synthesized

SPEECH_FOLDERS = ("speech", "lyra_audios")
_AUDIO_SUFFIXES = (".mp3", ".wav", ".flac", ".ogg", ".opus", ".m4a", ".webm")
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")


@dataclass(frozen=True)
class Item:
    """An object of a data set's JSON; errors name the file and the object."""

    file: str
    name: str
    values: dict[str, Any]

    def text(self, key: str) -> str:
        """A non-empty string; numbers are converted. Raises InvalidInput."""
        value = self._value(key)
        if isinstance(value, int | float) and not isinstance(value, bool):
            return str(value)
        if not isinstance(value, str) or not value.strip():
            raise self.error(key, "must be a non-empty string")
        return value

    def texts(self, key: str) -> list[str]:
        """A non-empty list of strings. Raises InvalidInput."""
        value = self._value(key)
        if not isinstance(value, list) or not value or not all(isinstance(each, str) for each in value):
            raise self.error(key, "must be a non-empty list of strings")
        return value

    def items(self, key: str) -> "Iterator[Item]":
        """A list of objects. Raises InvalidInput."""
        value = self._value(key)
        if not isinstance(value, list):
            raise self.error(key, "must be a list")
        for number, each in enumerate(value):
            yield as_item(each, self.file, f"{self.name} {key}[{number}]".strip())

    def error(self, key: str, message: str) -> InvalidInput:
        return InvalidInput(f"{self.file}, {self.name}, {key}", message)

    def _value(self, key: str) -> Any:
        if key not in self.values:
            raise self.error(key, "is missing")
        return self.values[key]


def as_item(value: Any, file: str, name: str) -> Item:
    """Wraps a JSON object. Raises InvalidInput for any other value."""
    if not isinstance(value, dict):
        raise InvalidInput(f"{file}, {name}", "is not a JSON object")
    return Item(file, name, value)


def find_one(folder: Path, *patterns: str) -> Path:
    """The first file of a folder that matches one of the patterns, tried in order. Raises InvalidInput."""
    if not folder.is_dir():
        raise InvalidInput("folder", f"{folder} is not a folder")
    for pattern in patterns:
        if found := sorted(path for path in folder.glob(pattern) if path.is_file()):
            return found[0]
    raise InvalidInput("folder", f"{folder} contains no {' or '.join(patterns)}")


def read_json(path: Path) -> Any:
    """Raises InvalidInput."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise InvalidInput(path.name, f"is not JSON ({error})") from error


def read_data(path: Path, id_key: str) -> list[Item]:
    """The objects of a JSON list, or of the list under `data`, named by the field `id_key`. Raises InvalidInput."""
    whole = read_json(path)
    listed = whole.get("data") if isinstance(whole, dict) else whole
    if not isinstance(listed, list) or not listed:
        raise InvalidInput(path.name, "does not contain a non-empty list of questions")
    items = []
    for number, value in enumerate(listed):
        item = as_item(value, path.name, f"question {number + 1}")
        items.append(Item(path.name, f"question {item.text(id_key)}" if id_key else item.name, item.values))
    return items


def media_file(folder: Path, name: str, field: str, suffixes: tuple[str, ...] = ()) -> Path:
    """A file inside a folder, given with or without its suffix. Raises InvalidInput."""
    for candidate in (name, *(name + suffix for suffix in suffixes)):
        path = folder / candidate
        if path.is_file():
            if not path.resolve().is_relative_to(folder.resolve()):
                raise InvalidInput(field, f"{name} is outside {folder}")
            return path
    raise InvalidInput(field, f"{folder / name} does not exist")


class Questions:
    """Builds the questions of a data set: in writing, from its recordings, or synthesized.

    Args:
        folder: Folder of the data set.
        written: Whether the questions are written.
        reader: The voice that speaks where there are no recordings.
        home: Folder of its weights.
        prompt: A written instruction added to every question, such as to answer in one word.
    """

    def __init__(
        self,
        folder: Path,
        *,
        written: bool = False,
        reader: str = DEFAULT_VOICE,
        home: Path | None = None,
        prompt: str = "",
    ) -> None:
        self._folder, self._written, self._reader, self._home = folder, written, reader, home
        self.prompt = prompt

    @property
    def form(self) -> str:
        """`written`, `recorded` or `read by VOICE`, for results."""
        if self._written:
            return "written"
        return "recorded" if self._recordings is not None else f"read by {self._reader}"

    def build(self, question_id: str, text: str, **fields: Any) -> Question:
        """A question, with further fields of Question. Raises InvalidInput."""
        name = f"question {question_id}"
        if self._written:
            return Question(name=name, text="\n".join(filter(None, (text, self.prompt))), **fields)
        return Question(name=name, text=self.prompt, audio=(self._audio(question_id, text, name),), **fields)

    def _audio(self, question_id: str, text: str, name: str) -> AudioSource:
        if self._recordings is None:
            return synthesized(text, self._reader, self._home)
        if question_id not in self._recordings:
            folder = self._recordings_folder
            raise InvalidInput(name, f"{folder} has no recording {question_id}{_AUDIO_SUFFIXES[0]} (or similar)")
        return AudioFile(self._recordings[question_id])

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
