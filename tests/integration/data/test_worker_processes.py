"""Several worker processes give the same result as one process."""

from pathlib import Path

from model_core.data.filters import Rules, filter_folder
from model_core.data.validate import validate
from tests.unit.data.samples import seen, spoken, write_folder
from tests.unit.data.test_filter_folder import contents
from tests.unit.data.test_validate import published


def test_filtering_with_two_processes_is_byte_identical_to_one(tmp_path: Path) -> None:
    source = write_folder(tmp_path / "source", [spoken(1), seen(1)], [spoken(1)], [spoken(2), seen(1), spoken(3)])
    rules = Rules(min_seconds=0.5, max_repetition=0.3, duplicates=True, near_duplicates=0.9)
    filter_folder(source, tmp_path / "one", rules)
    filter_folder(source, tmp_path / "two", rules, workers=2)
    assert contents(tmp_path / "one") == contents(tmp_path / "two")


def test_validation_with_two_processes_finds_the_same_faults_as_one(tmp_path: Path) -> None:
    path = published(tmp_path, 70)
    one, two = validate(path), validate(path, workers=2)
    assert one.faults
    assert one == two
