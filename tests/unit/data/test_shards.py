"""Shards and manifests round-trip, completely or not at all."""

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from model_core.data.conversation import Conversation
from model_core.data.data_errors import DataError, SampleError
from model_core.data.dataset import ConversationDataset
from model_core.data.shards import (
    GROUP_SAMPLES,
    Manifest,
    open_shard,
    read_manifest,
    read_shard_entry,
    shard_path,
    verify_shard,
    write_manifest,
    write_shard,
)
from tests.unit.data.samples import dialogue, picture, seen, speech, spoken, write_folder

EVERYTHING = Conversation(
    id="Ünïcode-☃",
    turns=dialogue("<image>\n<speech>\n<video> <image> Which?", "This one.", "Sure?", "Quite sure"),
    images=(picture(1), picture(2, "JPEG")),
    speech=(speech(1, transcript="which one", voice_name="awb"),),
    videos=(b"not looked at here",),
    source="test: everything",
    ended=False,
    units=((1, 2, 2, 999), (0,)),
)


def test_a_sample_round_trips(tmp_path: Path) -> None:
    folder = write_folder(tmp_path, [EVERYTHING, spoken(1)])
    assert list(ConversationDataset(folder)) == [EVERYTHING, spoken(1)]


def test_the_same_samples_give_the_same_bytes(tmp_path: Path) -> None:
    samples = [EVERYTHING, *map(spoken, range(5))]
    first = write_shard(tmp_path / "a", 0, samples)
    assert write_shard(tmp_path / "b", 0, iter(samples)) == first
    assert shard_path(tmp_path / "a", 0).read_bytes() == shard_path(tmp_path / "b", 0).read_bytes()


def test_a_manifest_entry_is_computed_from_the_written_file(tmp_path: Path) -> None:
    dropped: Counter[str] = Counter()

    def kept() -> Iterator[Conversation]:
        for number in range(GROUP_SAMPLES + 5):
            dropped["too-long"] += number % 2
            yield replace(spoken(1), id=f"{number}")
        yield seen(1)

    entry = write_shard(tmp_path, 3, kept(), dropped=dropped)
    assert entry.file == "shards/00003.parquet"
    assert entry.groups == (GROUP_SAMPLES, 6)
    assert entry.mix == {"image": 1, "speech": GROUP_SAMPLES + 5}
    assert entry.seconds == GROUP_SAMPLES + 5
    assert entry.dropped == {"too-long": 52}
    assert read_shard_entry(shard_path(tmp_path, 3)) == entry


def test_large_media_end_a_row_group(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("model_core.data.shards.GROUP_BYTES", 3 * len(picture(0)) - 1)
    entry = write_shard(tmp_path, 0, map(seen, range(7)))
    assert entry.groups == (3, 3, 1)


def test_a_shard_may_be_empty(tmp_path: Path) -> None:
    entry = write_shard(tmp_path, 0, [], dropped={"silence": 2})
    assert read_shard_entry(shard_path(tmp_path, 0)) == entry
    assert (entry.samples, entry.dropped) == (0, {"silence": 2})


def test_a_bad_sample_raises_and_leaves_no_file(tmp_path: Path) -> None:
    with pytest.raises(SampleError, match="spoken-1"):
        write_shard(tmp_path, 0, [spoken(0), replace(spoken(1), speech=())])
    assert list((tmp_path / "shards").iterdir()) == []


def test_a_manifest_round_trips_and_its_totals_add_up(tmp_path: Path) -> None:
    entries = tuple(write_shard(tmp_path, n, [spoken(n), seen(n)], dropped={"silence": n}) for n in range(3))
    manifest = Manifest(kind="align", name="n", seed=7, shards=entries, spec={"a": [1]}, versions={"numpy": "2"})
    write_manifest(tmp_path, manifest)
    assert read_manifest(tmp_path) == manifest
    assert (manifest.samples, manifest.seconds) == (6, 3.0)
    assert (manifest.mix, manifest.dropped) == ({"image": 3, "speech": 3}, {"silence": 3})
    assert json.loads((tmp_path / "manifest.json").read_text())["totals"]["samples"] == 6


def test_a_manifest_of_an_unknown_kind_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="'song' is not one of align"):
        write_manifest(tmp_path, Manifest(kind="song", name="n", seed=0, shards=()))
    assert not (tmp_path / "manifest.json").exists()


def test_a_folder_without_a_manifest_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="not a data folder"):
        read_manifest(tmp_path)
    write_shard(tmp_path, 0, [spoken(0)])
    with pytest.raises(DataError, match="is incomplete: run the same build again"):
        read_manifest(tmp_path)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"format": 99}', '{"format": 1, "shards": [{"file": "x"}]}'])
def test_an_invalid_manifest_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(DataError, match=r"manifest\.json: is not a manifest of this version"):
        read_manifest(tmp_path)


def test_missing_truncated_and_foreign_shards_are_named(tmp_path: Path) -> None:
    folder = write_folder(tmp_path, [spoken(0)], [spoken(1)])
    path = shard_path(folder, 1)
    whole = path.read_bytes()
    path.write_bytes(whole[:-10])
    with pytest.raises(DataError, match=r"00001\.parquet: has .* bytes, not .* as in the manifest"):
        read_manifest(folder)
    path.unlink()
    with pytest.raises(DataError, match=r"00001\.parquet: is missing"):
        read_manifest(folder)
    (folder / "manifest.json").write_text((folder / "manifest.json").read_text().replace("shards/00001", "../00001"))
    with pytest.raises(DataError, match="is outside"):
        read_manifest(folder)


def test_a_changed_byte_is_detected_by_the_hash(tmp_path: Path) -> None:
    folder = write_folder(tmp_path, [spoken(0)])
    path = shard_path(folder, 0)
    whole = bytearray(path.read_bytes())
    whole[len(whole) // 2] ^= 1
    path.write_bytes(whole)
    with pytest.raises(DataError, match="another SHA-256"):
        verify_shard(folder, read_manifest(folder).shards[0])


def test_another_parquet_file_is_not_a_shard(tmp_path: Path) -> None:
    import pyarrow as pa

    path = tmp_path / "other.parquet"
    pq.write_table(pa.table({"a": [1]}), path)
    with pytest.raises(DataError, match="other columns"), open_shard(path):
        pass
