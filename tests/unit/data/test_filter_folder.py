"""Filtering a folder: drops are counted by reason and named; runs can resume and are byte-identical."""

import json
import pkgutil
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from model_core.data.data_errors import DataError
from model_core.data.dataset import ConversationDataset
from model_core.data.filters import Rules, filter_folder
from model_core.data.shards import read_manifest, shard_path
from model_core.data.validate import validate
from tests.unit.data.samples import dialogue, seen, speech, spoken, voice, write_folder
from tests.unit.data.test_filters import LOOP, with_recording

RULES = Rules(min_seconds=0.5, max_repetition=0.3, duplicates=True, near_duplicates=0.9)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Three shards: the first has a loop, the second only a duplicate and a short sample, the third a duplicate."""
    loop = spoken(1, id="loop", turns=dialogue("<speech>", LOOP))
    return write_folder(
        tmp_path / "source",
        [spoken(1), loop, seen(1)],
        [replace(spoken(1), id="copy"), replace(with_recording(voice(2, 0.2)), id="short")],
        [spoken(2), replace(seen(1), id="copy-2"), replace(loop, id="loop-2"), spoken(3)],
    )


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_dropped_samples_are_counted_and_named_and_the_rest_is_written(tmp_path: Path, source: Path) -> None:
    manifest = filter_folder(source, tmp_path / "out", RULES)
    assert manifest == read_manifest(tmp_path / "out")
    assert manifest.dropped == {"duplicate": 2, "repetition": 2, "too-short": 1}
    assert [sample.id for sample in ConversationDataset(tmp_path / "out")] == [
        "spoken-1",
        "seen-1",
        "spoken-2",
        "spoken-3",
    ]
    assert [shard.samples for shard in manifest.shards] == [2, 0, 2]
    named = [json.loads(line) for path in sorted((tmp_path / "out" / "dropped").iterdir()) for line in path.open()]
    assert {each["sample"]: each["reason"] for each in named} == {
        "loop": "repetition",
        "copy": "duplicate",
        "short": "too-short",
        "copy-2": "duplicate",
        "loop-2": "repetition",
    }
    assert (manifest.kind, manifest.name, manifest.seed) == ("instruct", "test", 1)
    assert manifest.spec["rules"]["near_duplicates"] == 0.9
    assert manifest.spec["source"]["sha256"] == [shard.sha256 for shard in read_manifest(source).shards]
    assert validate(tmp_path / "out").faults == []
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["dropped", "manifest.json", "shards"]


def test_a_finished_run_is_not_repeated(tmp_path: Path, source: Path) -> None:
    filter_folder(source, tmp_path / "a", RULES)
    before = contents(tmp_path / "a")
    filter_folder(source, tmp_path / "a", RULES)
    assert contents(tmp_path / "a") == before


@pytest.mark.parametrize(
    ("step", "calls"),
    [
        *(("_mark", calls) for calls in range(3)),
        ("_judge", 0),
        *(("_write", calls) for calls in range(3)),
        ("_done", 0),
    ],
)
def test_an_interrupted_run_resumes_without_repeating_finished_shards(
    tmp_path: Path, source: Path, step: str, calls: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    filter_folder(source, tmp_path / "whole", RULES)
    name = f"model_core.data.filters.folder.{step if step != '_done' else 'write_manifest'}"
    original = pkgutil.resolve_name(name)
    left = [calls]

    def ends(*args: object) -> object:
        if not left[0]:
            raise KeyboardInterrupt
        left[0] -= 1
        return original(*args)

    with monkeypatch.context() as patch:
        patch.setattr(name, ends)
        with pytest.raises(KeyboardInterrupt):
            filter_folder(source, tmp_path / "out", RULES)
    assert not (tmp_path / "out" / "manifest.json").exists()
    done = {path: path.stat().st_mtime_ns for path in (tmp_path / "out" / "shards").glob("*")}
    assert len(done) == {"_write": calls, "_done": 3}.get(step, 0)
    filter_folder(source, tmp_path / "out", RULES)
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")
    assert all(path.stat().st_mtime_ns == time for path, time in done.items())


def test_partly_written_files_of_a_killed_run_are_ignored(tmp_path: Path, source: Path) -> None:
    filter_folder(source, tmp_path / "whole", RULES)
    out = tmp_path / "out"
    shutil.copytree(tmp_path / "whole", out)
    (out / "manifest.json").unlink()
    (out / "work").mkdir()
    data = shard_path(out, 0).read_bytes()
    shard_path(out, 0).write_bytes(data[: len(data) // 2])
    (out / "shards" / ".00002.parquet.partial-12").write_bytes(b"half")
    filter_folder(source, out, RULES)
    assert contents(out) == contents(tmp_path / "whole")


def test_other_rules_or_another_source_need_another_folder(tmp_path: Path, source: Path) -> None:
    filter_folder(source, tmp_path / "out", RULES)
    with pytest.raises(DataError, match=r"was started with other options .*rules"):
        filter_folder(source, tmp_path / "out", replace(RULES, min_seconds=0.1))
    other = write_folder(tmp_path / "other", [spoken(5)])
    with pytest.raises(DataError, match=r"was started with other options .*source"):
        filter_folder(other, tmp_path / "out", RULES)


def test_a_folder_with_other_content_is_left_alone(tmp_path: Path, source: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("dear")
    with pytest.raises(DataError, match="not empty and not a data set"):
        filter_folder(source, tmp_path / "mine", RULES)
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["letter.txt"]
    for inside in (source, source / "new"):
        with pytest.raises(DataError, match="is inside the source folder"):
            filter_folder(source, inside, RULES)


def test_a_modified_source_is_refused(tmp_path: Path, source: Path) -> None:
    path = shard_path(source, 1)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(DataError, match=r"00001\.parquet: has another SHA-256"):
        filter_folder(source, tmp_path / "out", RULES)


def test_a_second_run_at_the_same_time_is_refused(tmp_path: Path, source: Path) -> None:
    from model_core.data.work_folder import work_alone

    with work_alone(tmp_path / "out"), pytest.raises(DataError, match="another process is working in it"):
        filter_folder(source, tmp_path / "out", RULES)


def test_undecodable_media_are_dropped_without_any_rule(tmp_path: Path) -> None:
    broken = replace(spoken(1), speech=(replace(speech(1), data=b"no sound" * 99),))
    manifest = filter_folder(write_folder(tmp_path / "source", [broken, spoken(2)]), tmp_path / "out", Rules())
    assert (manifest.samples, manifest.dropped) == (1, {"audio-does-not-decode": 1})
