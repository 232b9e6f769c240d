"""Options of a build: sources, voices, tasks."""

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from model_core.data.build.recorded import RecordedFiles
from model_core.data.build.sources import Made, Mixture, OpenSource, Source
from model_core.data.build.synthesis import Style
from model_core.data.build.tasks import Weights
from model_core.data.build.work import Dropped
from model_core.data.data_errors import DataError, Reason, SampleError
from model_core.errors import InvalidInput
from tests.unit.data.samples import encoded, voice


def test_a_source_is_a_name_or_file_with_an_optional_count(tmp_path: Path) -> None:
    file = tmp_path / "mine.txt"
    file.write_text("One.")
    assert Source.parse("chitchat") == Source(name="chitchat")
    assert Source.parse("chitchat:12") == Source(name="chitchat", count=12)
    assert Source.parse(f"{file}:3") == Source(name="mine.txt", count=3, path=file)


@pytest.mark.parametrize(
    ("text", "said"), [("no/such.txt", "no file"), ("missing.json", "no file"), ("a:0", "at least 1")]
)
def test_an_invalid_source_is_refused(text: str, said: str) -> None:
    with pytest.raises(InvalidInput, match=said):
        Source.parse(text)


class Letters(OpenSource):
    """A source whose samples are all dropped, named by source and index."""

    origin = "letters"

    def __init__(self, name: str, available: int) -> None:
        self.name, self.available = name, available

    def make(self, indices: Sequence[int]) -> list[Made]:
        return [Dropped(f"{self.name}{index}", "letter", "") for index in indices]


def mixture(*counts: int | None, seed: int = 0, samples: int | None = None) -> Mixture:
    sources = [(Source(name=name, count=count), Letters(name, 3)) for name, count in zip("abc", counts, strict=False)]
    return Mixture(sources, seed, samples)


def names(made: Mixture, numbers: range) -> list[str]:
    return [each.sample for each in made.make(numbers) if isinstance(each, Dropped)]


def test_a_mixture_has_each_requested_sample_once() -> None:
    mixed = mixture(2, None, 5)
    assert mixed.samples == 10
    assert sorted(names(mixed, range(10))) == ["a0", "a1", "b0", "b1", "b2", "c0", "c1", "c2", "c3", "c4"]


def test_a_range_of_a_mixture_equals_that_part_of_the_whole() -> None:
    mixed = mixture(200, 200, 200)
    assert names(mixed, range(600))[150:260] == names(mixed, range(150, 260))


def test_a_source_named_twice_or_without_samples_is_refused() -> None:
    with pytest.raises(InvalidInput, match="twice"):
        Mixture([(Source(name="a"), Letters("a", 3)), (Source(name="a"), Letters("a", 3))], 0, None)
    with pytest.raises(InvalidInput, match="nothing"):
        Mixture([(Source(name="a"), Letters("a", 0))], 0, None)


def test_voices_have_weights() -> None:
    assert Style.parse_voices("slt, joe=0.3") == (("slt", 1.0), ("joe", 0.3))


@pytest.mark.parametrize(
    ("voices", "said"),
    [("", "none"), ("rms", "kept out"), ("slt,slt", "twice"), ("slt=0", "above 0"), ("slt=much", "no weight")],
)
def test_invalid_voices_are_refused(voices: str, said: str) -> None:
    with pytest.raises(InvalidInput, match=said):
        Style(voices=Style.parse_voices(voices))


@pytest.mark.parametrize(("tasks", "said"), [("sing=1", "no task"), ("needle=-1", "below 0"), ("part=0", "above 0")])
def test_invalid_tasks_are_refused(tasks: str, said: str) -> None:
    with pytest.raises(InvalidInput, match=said):
        Weights.parse(tasks)


def recorded(folder: Path, *audio: str) -> RecordedFiles:
    path = folder / "talks.jsonl"
    path.write_text("".join(json.dumps({"audio": name, "text": "What is said."}) + "\n" for name in audio))
    return RecordedFiles(path)


def test_supplied_recordings_are_used_unchanged(tmp_path: Path) -> None:
    data = encoded(voice(0, 1.5))
    (tmp_path / "a.flac").write_bytes(data)
    speech = recorded(tmp_path, "a.flac").speech(0, "a", 10)
    assert speech.data == data
    assert speech.seconds == pytest.approx(1.5)
    assert speech.transcript == "What is said."


@pytest.mark.parametrize(
    ("audio", "reason"),
    [
        ("gone.wav", Reason.MISSING_FILE),
        ("../a.flac", Reason.OUTSIDE_ROOT),
        ("text.wav", Reason.AUDIO),
        ("long.flac", Reason.AUDIO),
    ],
)
def test_an_unusable_recording_is_dropped_with_the_reason(tmp_path: Path, audio: str, reason: Reason) -> None:
    (tmp_path / "a.flac").write_bytes(encoded(voice(0)))
    folder = tmp_path / "inside"
    folder.mkdir()
    (folder / "text.wav").write_text("no sound")
    (folder / "long.flac").write_bytes(encoded(voice(0, 11)))
    with pytest.raises(SampleError) as raised:
        recorded(folder, audio).speech(0, "sample", 10)
    assert raised.value.reason is reason


@pytest.mark.parametrize(
    "line", ["{", "[]", '{"audio": "a.wav"}', '{"audio": "", "text": "x"}', '{"audio": 1, "text": "x"}']
)
def test_a_malformed_line_is_named(tmp_path: Path, line: str) -> None:
    path = tmp_path / "talks.jsonl"
    path.write_text('{"audio": "a.wav", "text": "x"}\n' + line + "\n")
    with pytest.raises(DataError, match="line 2"):
        RecordedFiles(path)
