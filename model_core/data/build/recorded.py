"""The user's own recordings: a JSON Lines file of {"audio": "path", "text": "transcript"}.

Paths are relative to the file's folder and must stay inside it.
"""

import hashlib
import json
from pathlib import Path

from model_core.data.conversation import Speech
from model_core.data.data_errors import DataError
from model_core.data.media import Limits, audio_seconds, read_file


class RecordedFiles:
    """The lines of a file of recordings.

    Raises:
        DataError: a line does not have that form.
    """

    def __init__(self, path: Path) -> None:
        self.name = path.stem
        self._folder = path.parent.resolve()
        data = path.read_bytes()
        self.sha256 = hashlib.sha256(data).hexdigest()
        self._lines = [
            _entry(path, number, line)
            for number, line in enumerate(data.decode(errors="replace").splitlines(), start=1)
            if line.strip()
        ]
        self.count = len(self._lines)

    def text(self, index: int) -> str:
        """The transcript of a recording."""
        return self._lines[index][1]

    def speech(self, index: int, sample: str, max_seconds: float) -> Speech:
        """A recording, unchanged. Raises SampleError if it is missing, outside the folder, too long, or broken."""
        audio, text = self._lines[index]
        limits = Limits(audio_seconds=max_seconds)
        data = read_file(sample, "audio", self._folder, audio, limits)
        return Speech(data=data, seconds=audio_seconds(sample, "audio", data, limits), transcript=text)


def _entry(path: Path, number: int, line: str) -> tuple[str, str]:
    where = f"line {number}"
    try:
        entry = json.loads(line)
    except json.JSONDecodeError as error:
        raise DataError(path, f"{where} is not JSON: {error.msg}") from error
    for field in ("audio", "text"):
        if not isinstance(entry, dict) or not isinstance(entry.get(field), str) or not entry[field].strip():
            raise DataError(path, f'{where} has no "{field}": each line is {{"audio": "path", "text": "transcript"}}')
    return entry["audio"], entry["text"].strip()
