"""A full disk ends the work at once, with an error that says what to do, and leaves no incomplete files.

A limit on the file size of the process (RLIMIT_FSIZE) simulates it: the same call fails.
"""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.paths import ROOT
from tests.unit.data.samples import seen, write_folder

LIMITED = """
import resource, sys
from pathlib import Path
sys.path.insert(0, {root!r})
from tests.unit.data.samples import seen, write_folder
from model_core.data.data_errors import DataError
from model_core.data.filters import Rules, filter_folder
from model_core.data.shards import write_manifest, write_shard, Manifest
folder = Path(sys.argv[1])
resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))
try:
    {work}
except DataError as error:
    print(error)
else:
    print("nothing happened")
"""


def run(folder: Path, work: str, limit: int = 8192) -> str:
    script = LIMITED.format(root=str(ROOT), work=work, limit=limit)
    done = subprocess.run([sys.executable, "-c", script, str(folder)], capture_output=True, text=True, check=True)
    return done.stdout


def left(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize(
    ("work", "limit", "name"),
    [
        ("write_shard(folder, 0, map(seen, range(100)))", 8192, "00000.parquet"),
        ("write_shard(folder, 0, map(seen, range(2)))", 3000, "00000.parquet"),
        ("write_manifest(folder, Manifest(kind='align', name='n' * 9999, seed=0, shards=()))", 8192, "manifest.json"),
    ],
)
def test_a_file_that_does_not_fit_on_disk_is_named_and_removed(
    tmp_path: Path, work: str, limit: int, name: str
) -> None:
    said = run(tmp_path, work, limit)
    assert f"{name}: cannot be written: File too large. Free space there" in said
    assert left(tmp_path) == []


def test_a_filter_run_stopped_by_a_full_disk_resumes_once_there_is_space(tmp_path: Path) -> None:
    write_folder(tmp_path / "source", [seen(0)], [seen(number) for number in range(1, 40)])
    work = 'filter_folder(folder / "source", folder / "out", Rules())'
    assert "00001.parquet: cannot be written" in run(tmp_path, work)
    assert [name for name in left(tmp_path / "out") if name.startswith(("shards", "manifest"))] == [
        "shards/00000.parquet"
    ]
    assert "nothing happened" in run(tmp_path, work, limit=1 << 20)
    assert left(tmp_path / "out") == ["manifest.json", "shards/00000.parquet", "shards/00001.parquet"]
