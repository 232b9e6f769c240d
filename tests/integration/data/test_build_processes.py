"""Builds are byte-identical each time, whatever interrupts them."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest

from model_core.data.build.work import build, rng_of, shuffled_plan
from model_core.data.data_errors import DataError
from model_core.data.dataset import ConversationDataset
from model_core.data.shards import Manifest
from model_core.errors import InvalidInput
from tests.conftest import until
from tests.integration.data.counting import CountingSpec
from tests.paths import ROOT

BUILD = """
import sys
from pathlib import Path
from model_core.data.build.work import build
from tests.integration.data.counting import CountingSpec
if __name__ == "__main__":
    build(CountingSpec(name="n"), Path(sys.argv[1]), home=Path(sys.argv[1]), workers=int(sys.argv[2]))
"""


def contents(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in sorted(folder.rglob("*")) if file.is_file()}


def built(folder: Path, workers: int = 1, **fields: Any) -> Manifest:
    return build(CountingSpec(name="n", **fields), folder, home=folder, workers=workers)


def start(folder: Path, workers: int = 1, **environment: str) -> subprocess.Popen[bytes]:
    """Starts a build in a separate process."""
    command = [sys.executable, "-c", BUILD, str(folder), str(workers)]
    return subprocess.Popen(command, cwd=ROOT, env=os.environ | environment)


def test_builds_are_byte_identical_for_any_number_of_workers(tmp_path: Path) -> None:
    built(tmp_path / "a")
    built(tmp_path / "b")
    built(tmp_path / "c", workers=3)
    assert contents(tmp_path / "a") == contents(tmp_path / "b") == contents(tmp_path / "c")


def test_dropped_samples_are_counted_and_named(tmp_path: Path) -> None:
    manifest = built(tmp_path / "a")
    assert manifest.samples == 18
    assert manifest.dropped == {"seventh": 2}
    named = [json.loads(line) for file in sorted((tmp_path / "a" / "dropped").iterdir()) for line in file.open()]
    assert [row["sample"] for row in named] == ["number-6", "number-13"]
    assert {row["reason"] for row in named} == {"seventh"}


def test_the_manifest_records_spec_origins_and_versions(tmp_path: Path) -> None:
    manifest = built(tmp_path / "a", seed=3)
    assert manifest.kind == "instruct"
    assert manifest.seed == 3
    assert manifest.spec["count"] == 20
    assert manifest.spec["origins"] == {"numbers": "numbers"}
    assert manifest.versions["pyarrow"]
    assert not (tmp_path / "a" / "work").exists()


def test_a_killed_build_resumes_to_the_same_bytes(tmp_path: Path) -> None:
    built(tmp_path / "whole")
    killed = tmp_path / "killed"
    assert start(killed, COUNTING_KILL="10").wait() == -signal.SIGKILL
    assert not (killed / "manifest.json").exists()
    finished = {path: path.stat().st_mtime_ns for path in (killed / "shards").glob("*.parquet")}
    assert len(finished) == 2
    built(killed)
    assert contents(killed) == contents(tmp_path / "whole")
    assert all(path.stat().st_mtime_ns == written for path, written in finished.items())


def test_a_killed_worker_is_reported_and_the_build_continues(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    built(tmp_path / "whole")
    monkeypatch.setenv("COUNTING_KILL", "10")
    with pytest.raises(DataError, match="worker process was killed"):
        built(tmp_path / "a", workers=2)
    monkeypatch.delenv("COUNTING_KILL")
    built(tmp_path / "a", workers=2)
    assert contents(tmp_path / "a") == contents(tmp_path / "whole")


async def test_workers_exit_when_their_parent_is_killed(tmp_path: Path) -> None:
    told = tmp_path / "pid"
    parent = start(tmp_path / "a", workers=2, COUNTING_WAIT="5", COUNTING_PID=str(told))
    await until(lambda: told.exists() and told.read_text().isdecimal())
    worker = psutil.Process(int(told.read_text()))
    parent.kill()
    parent.wait()
    worker.wait(timeout=60)


def test_a_broken_shard_is_rebuilt(tmp_path: Path) -> None:
    built(tmp_path / "whole")
    assert start(tmp_path / "a", COUNTING_KILL="10").wait() == -signal.SIGKILL
    shard = tmp_path / "a" / "shards" / "00000.parquet"
    shard.write_bytes(shard.read_bytes()[:100])
    built(tmp_path / "a")
    assert contents(tmp_path / "a") == contents(tmp_path / "whole")


@pytest.mark.parametrize(
    ("changed", "named"), [({"seed": 1}, "seed was 0 and is now 1"), ({"origin": "others"}, "origins was")]
)
def test_a_folder_of_another_spec_is_refused_with_the_difference(
    tmp_path: Path, changed: dict[str, Any], named: str
) -> None:
    assert start(tmp_path / "begun", COUNTING_KILL="10").wait() == -signal.SIGKILL
    built(tmp_path / "finished")
    before = contents(tmp_path / "finished")
    for folder in ("begun", "finished"):
        with pytest.raises(DataError, match=named):
            built(tmp_path / folder, **changed)
    assert contents(tmp_path / "finished") == before


def test_a_finished_build_is_not_repeated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = built(tmp_path / "a")
    monkeypatch.setenv("COUNTING_KILL", "0")
    assert built(tmp_path / "a") == first


def test_a_shard_modified_after_the_build_is_detected(tmp_path: Path) -> None:
    built(tmp_path / "a")
    shard = tmp_path / "a" / "shards" / "00001.parquet"
    data = bytearray(shard.read_bytes())
    data[100] ^= 1
    shard.write_bytes(data)
    with pytest.raises(DataError, match="00001"):
        built(tmp_path / "a")


def test_a_folder_with_other_files_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(DataError, match="not empty"):
        built(tmp_path)
    assert contents(tmp_path) == {"thesis.txt": b"mine"}


def test_a_spec_without_samples_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="no sample"):
        built(tmp_path / "a", count=0)
    with pytest.raises(InvalidInput, match="samples"):
        CountingSpec(name="n", samples=0)


def test_every_sample_can_be_read(tmp_path: Path) -> None:
    built(tmp_path / "a")
    ids = [conversation.id for conversation in ConversationDataset(tmp_path / "a")]
    assert ids == [f"number-{number}" for number in range(20) if number % 7 != 6]


def test_a_plan_has_every_sample_once_in_an_order_given_by_the_seed() -> None:
    plan = shuffled_plan([3, 2], seed=0, samples=None)
    assert sorted(plan) == [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1)]
    assert shuffled_plan([50, 50], 0, None) != shuffled_plan([50, 50], 1, None)
    assert shuffled_plan([50, 50], 0, 10) == shuffled_plan([50, 50], 0, None)[:10]


def test_random_numbers_are_the_same_in_every_process() -> None:
    assert rng_of(0, "voice").getrandbits(32) == 4279366249
