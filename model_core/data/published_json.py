"""The layout of LLaVA's and Lyra's published training data: a JSON list of conversations beside folders of media.

An element (Lyra-Data, `lyra_multimodal.json`; media may be lists, and everything but `conversations` is optional):

    {"id": "...", "image": "coco/1.jpg", "speech": "Lyra_MM/1.mp3", "speech_asr": "What is this?",
     "conversations": [{"from": "human", "value": "<image>\\n<speech>"}, {"from": "gpt", "value": "A cat."}]}
"""

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import ijson

from model_core.data.conversation import (
    IMAGE,
    SPEECH,
    VIDEO,
    Conversation,
    Speech,
    Turn,
    check,
    check_count,
    check_turns,
)
from model_core.data.data_errors import DataError, Reason, SampleError
from model_core.data.media import Limits, audio_seconds, check_image, check_video, read_file
from model_core.language.messages import Role

_ROLES = {
    "human": Role.USER,
    "user": Role.USER,
    "gpt": Role.ASSISTANT,
    "assistant": Role.ASSISTANT,
    "system": Role.SYSTEM,
}
_IMAGES, _SPEECH, _VIDEOS = ("image", "images"), ("speech", "long_speech"), ("video", "videos")
_UNIT = re.compile(r"<(\d+)>")
_UNITS = re.compile(r"(?:<\d+>)+")

OnError = Callable[[SampleError], None]


def read_published_json(
    path: Path, media_root: Path, *, limits: Limits | None = None, on_error: OnError | None = None
) -> Iterator[Conversation]:
    """The conversations of a published JSON file with their media, which are decoded to verify them.

    The file is streamed. A repeated id gets its position as a suffix, since questions about an image share an id.

    Args:
        path: A JSON list, or JSON Lines.
        media_root: The folder that paths in it are relative to; no file outside of it is read.
        limits: Limits of media.
        on_error: Called with every invalid sample, which is skipped; without it, the first error is raised.

    Raises:
        SampleError: a sample is invalid and there is no `on_error`.
        DataError: the file is missing or is not JSON.
    """
    seen: set[str] = set()
    for number, record in enumerate(read_records(path)):
        try:
            conversation = to_conversation(number, record, media_root, limits or Limits(), seen)
        except SampleError as error:
            if on_error is None:
                raise
            on_error(error)
        else:
            yield conversation


def read_records(path: Path) -> Iterator[Any]:
    """The elements of a JSON list or of JSON Lines, one at a time. Raises DataError."""
    if not path.is_file():
        raise DataError(path, "is not a file")
    try:
        with path.open("rb") as file:
            start = file.read(64).lstrip()
            file.seek(0)
            if start.startswith(b"["):
                yield from ijson.items(file, "item", use_float=True)
            else:
                yield from (json.loads(line) for line in file if line.strip())
    except (ijson.JSONError, ValueError) as error:
        raise DataError(path, f"is not a complete JSON list of conversations ({error})") from error


def name_of(number: int, record: Any) -> str:
    """The name of a record in errors: its id, or its position."""
    name = record.get("id", record.get("speech_id")) if isinstance(record, dict) else None
    return str(name) if isinstance(name, str | int) and str(name) else f"#{number}"


def to_conversation(
    number: int, record: Any, media_root: Path, limits: Limits, seen: set[str] | None = None
) -> Conversation:
    """One element with its media.

    Args:
        number: Its position, from 0.
        record: An element from `read_records`.
        media_root: The folder of media.
        limits: Limits of media.
        seen: Ids so far; a repeated id gets its position as a suffix.

    Raises:
        SampleError: the element is invalid.
    """
    sample = name_of(number, record)
    if seen is not None:
        sample = f"{sample}#{number}" if sample in seen else sample
        seen.add(sample)
    if not isinstance(record, dict):
        raise SampleError(sample, "sample", "is not a JSON object", Reason.NOT_A_SAMPLE)
    turns = _turns(sample, record)
    check_turns(sample, turns)
    names = {field: _names(sample, record, keys) for field, keys in _FIELDS.items()}
    for field, placeholder in _PLACEHOLDERS.items():
        check_count(sample, field, sum(turn.text.count(placeholder) for turn in turns), len(names[field]))
    files = {
        field: [read_file(sample, f"{field}[{at}]", media_root, name, limits) for at, name in enumerate(found)]
        for field, found in names.items()
    }
    for at, (name, data) in enumerate(zip(names["images"], files["images"], strict=True)):
        check_image(sample, f"images[{at}]", data, limits, name=name)
    for at, data in enumerate(files["videos"]):
        check_video(sample, f"videos[{at}]", data, limits)
    conversation = Conversation(
        id=sample,
        turns=turns,
        images=tuple(files["images"]),
        speech=_speech(sample, record, files["speech"], limits),
        videos=tuple(files["videos"]),
        source=str(record.get("source", "")),
        units=_units(sample, record),
    )
    check(conversation)
    return conversation


_FIELDS = {"images": _IMAGES, "speech": _SPEECH, "videos": _VIDEOS}
_PLACEHOLDERS = {"images": IMAGE, "speech": SPEECH, "videos": VIDEO}


def _turns(sample: str, record: dict[str, Any]) -> tuple[Turn, ...]:
    found = record.get("conversations")
    if not isinstance(found, list):
        raise SampleError(sample, "conversations", "is not a list", Reason.NOT_A_SAMPLE)
    turns = []
    for index, turn in enumerate(found):
        field = f"conversations[{index}]"
        if not isinstance(turn, dict) or not isinstance(turn.get("value"), str):
            raise SampleError(sample, field, 'is not an object with a string "value"', Reason.NOT_A_SAMPLE)
        if turn.get("from") not in _ROLES:
            message = f'"from" is {turn.get("from")!r}, not one of {", ".join(_ROLES)}'
            raise SampleError(sample, field, message, Reason.ROLES)
        turns.append(Turn(role=_ROLES[turn["from"]], text=turn["value"]))
    return tuple(turns)


def _names(sample: str, record: dict[str, Any], keys: tuple[str, ...]) -> list[str]:
    """File names under any of the keys, each of which has one name or a list."""
    names: list[str] = []
    for key in keys:
        value = record.get(key)
        listed = value if isinstance(value, list) else [] if value is None else [value]
        for name in listed:
            if not isinstance(name, str) or not name or "\0" in name:
                raise SampleError(sample, key, f"{name!r} is not a file name", Reason.NOT_A_SAMPLE)
            names.append(name)
    return names


def _speech(sample: str, record: dict[str, Any], files: list[bytes], limits: Limits) -> tuple[Speech, ...]:
    given = record.get("speech_asr", "")
    transcripts = [str(each) for each in given] if isinstance(given, list) else [str(given)]
    if len(transcripts) != len(files):
        if any(transcripts) and files:
            counts = f"{len(transcripts)} transcripts for {len(files)} recordings"
            raise SampleError(sample, "speech_asr", counts, Reason.NOT_A_SAMPLE)
        transcripts = [""] * len(files)
    return tuple(
        Speech(data=data, seconds=audio_seconds(sample, f"speech[{at}]", data, limits), transcript=transcripts[at])
        for at, data in enumerate(files)
    )


def _units(sample: str, record: dict[str, Any]) -> tuple[tuple[int, ...], ...]:
    """`tgt_unit`: "<12><904>..." for a single answer, or a list of such strings."""
    found = record.get("tgt_unit")
    texts = found if isinstance(found, list) else [] if found is None else [found]
    for text in texts:
        if not isinstance(text, str) or not _UNITS.fullmatch(text):
            raise SampleError(sample, "tgt_unit", 'is not a string like "<12><904>"', Reason.UNITS)
    return tuple(tuple(int(unit) for unit in _UNIT.findall(text)) for text in texts)
