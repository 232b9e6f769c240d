"""Validation of a data set: every planted fault is named once, by its reason, and nothing else."""

import json
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from model_core.data.conversation import Speech
from model_core.data.data_errors import DataError, Reason
from model_core.data.media import Limits
from model_core.data.shards import read_manifest, read_shard_entry, shard_path, write_manifest
from model_core.data.validate import BROKEN_SHARD, PARTIAL_FILE, UNKNOWN_FILE, validate
from tests.unit.data.samples import encoded, picture, seen, speech, spoken, voice, write_folder


def found(folder: Path, **options: object) -> set[tuple[str, str]]:
    report = validate(folder, **options)  # type: ignore[arg-type]
    return {(fault.sample, fault.reason) for fault in report.faults}


def test_a_valid_folder_has_no_faults(tmp_path: Path) -> None:
    folder = write_folder(tmp_path, [spoken(1), seen(1)], [], [spoken(2)])
    shown: list[tuple[int, int]] = []
    report = validate(folder, progress=lambda done, total: shown.append((done, total)))
    assert (report.samples, report.faults, report.reasons) == (3, [], {})
    assert shown == [(1, 3), (2, 3), (3, 3)]


def test_media_that_do_not_decode_are_named_by_sample(tmp_path: Path) -> None:
    noise = Speech(data=b"no sound" * 99, seconds=1.0)
    longer = Speech(data=encoded(voice(1, 2.0)), seconds=1.0)
    bad = [
        replace(spoken(1), id="noise", speech=(noise,)),
        replace(spoken(2), id="longer", speech=(longer,)),
        replace(seen(1), id="cut", images=(picture(1)[:-30],)),
        replace(seen(2), id="large", images=(picture(1, size=(101, 100)),)),
        replace(spoken(3), id="units", units=((7, 8),)),
    ]
    folder = write_folder(tmp_path, [spoken(4), *bad, seen(3)])
    assert found(folder, limits=Limits(pixels=10_000), unit_vocabulary=8) == {
        ("noise", Reason.AUDIO),
        ("longer", Reason.SECONDS),
        ("cut", Reason.IMAGE),
        ("large", Reason.IMAGE_SIZE),
        ("units", Reason.UNITS),
    }


def test_an_id_in_two_shards_is_named(tmp_path: Path) -> None:
    folder = write_folder(tmp_path, [spoken(1), seen(1)], [spoken(1)])
    report = validate(folder)
    assert [(fault.sample, fault.reason) for fault in report.faults] == [("spoken-1", Reason.SAME_ID)]
    assert "shards/00001.parquet" in report.faults[0].message


def test_broken_partial_and_foreign_files_are_named_and_the_rest_is_checked(tmp_path: Path) -> None:
    folder = write_folder(
        tmp_path, [spoken(1)], [spoken(2)], [spoken(3)], [replace(spoken(4), speech=(speech(4, 2.0),))]
    )
    whole = shard_path(folder, 0).read_bytes()
    shard_path(folder, 0).write_bytes(whole[: len(whole) // 2])
    shard_path(folder, 1).unlink()
    (folder / "shards" / ".00009.parquet.partial-77").write_bytes(b"half")
    (folder / "shards" / "00007.parquet").write_bytes(whole)
    report = validate(folder)
    assert {(fault.sample, fault.reason) for fault in report.faults} == {
        ("shards/00000.parquet", BROKEN_SHARD),
        ("shards/00001.parquet", BROKEN_SHARD),
        ("shards/.00009.parquet.partial-77", PARTIAL_FILE),
        ("shards/00007.parquet", UNKNOWN_FILE),
    }
    assert report.samples == 2
    assert report.reasons == {BROKEN_SHARD: 2, PARTIAL_FILE: 1, UNKNOWN_FILE: 1}


@pytest.mark.parametrize("at", [0.02, 0.3, 0.5, 0.9, 0.999])
def test_a_changed_byte_anywhere_is_one_broken_shard(tmp_path: Path, at: float) -> None:
    folder = write_folder(tmp_path, [spoken(1), seen(1)])
    path = shard_path(folder, 0)
    data = bytearray(path.read_bytes())
    data[int(at * len(data))] ^= 0x55
    path.write_bytes(data)
    assert (path.name, BROKEN_SHARD) in {(Path(name).name, reason) for name, reason in found(folder)}


def test_rows_written_by_another_program_are_checked_like_ours(tmp_path: Path) -> None:
    folder = write_folder(tmp_path, [spoken(1), seen(1)])
    path = shard_path(folder, 0)
    table = pq.read_table(path)
    turns = table.column("turns").to_pylist()
    turns[1] = turns[1][:1]
    changed = table.set_column(2, table.schema.field("turns"), [turns])
    pq.write_table(changed.cast(table.schema), path)
    manifest = read_manifest(folder, check_files=False)
    write_manifest(folder, replace(manifest, shards=(read_shard_entry(path),)))
    assert found(folder) == {("seen-1", Reason.NO_ANSWER)}


def published(folder: Path, count: int) -> Path:
    """A published file of good samples, of which every tenth has no answer and every seventh lacks its picture."""
    (folder / "here.png").write_bytes(picture(1))
    records = []
    for number in range(count):
        image = "none.png" if number % 7 == 3 else "here.png"
        turns = [{"from": "human", "value": "<image>What?"}, {"from": "gpt", "value": "Noise."}]
        records.append({"id": f"s{number}", "image": image, "conversations": turns[: 1 if number % 10 == 4 else 2]})
    path = folder / "data.json"
    path.write_text(json.dumps(records))
    return path


def test_faults_of_a_published_file_are_counted_by_reason(tmp_path: Path) -> None:
    report = validate(published(tmp_path, 70))
    assert report.samples == 70
    assert report.reasons == {Reason.MISSING_FILE: 9, Reason.NO_ANSWER: 7}
    assert [fault.sample for fault in report.faults][:3] == ["s3", "s4", "s10"]


def test_a_report_has_every_fault(tmp_path: Path) -> None:
    report = validate(published(tmp_path, 20))
    report.write(tmp_path / "out" / "report.json")
    values = json.loads((tmp_path / "out" / "report.json").read_text())
    assert (values["samples"], values["faults"]) == (20, len(report.faults))
    assert values["reasons"] == {"missing-file": 3, "no-answer": 2}
    assert values["list"][0]["sample"] == "s3"
    assert set(values["list"][0]) == {"sample", "field", "reason", "message"}


def test_an_empty_folder_is_reported(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="not a data folder"):
        validate(tmp_path)
    with pytest.raises(DataError, match="is not a file"):
        validate(tmp_path / "none.json")
    (tmp_path / "empty.json").write_text("[]")
    with pytest.raises(DataError, match="contains no sample"):
        validate(tmp_path / "empty.json")
    with pytest.raises(DataError, match="is not a folder: name the folder of media"):
        validate(published(tmp_path, 1), media_root=tmp_path / "none")
