"""When the object store of a local stack is restarted."""

from pathlib import Path

import pytest

from services.operations.local import store_watch
from services.operations.local.store_watch import StoreWatch
from services.shared.storage.disk_space import failure_marker

RESERVE = 1000


@pytest.fixture
def free(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Free bytes on the disk: the last item of the list."""
    bytes_free = [10 * RESERVE]
    monkeypatch.setattr(store_watch, "free_bytes", lambda folder: bytes_free[-1])
    return bytes_free


def started(folder: Path) -> StoreWatch:
    watch = StoreWatch(folder, RESERVE, lambda: True)
    assert watch.restart_reason() == ""
    return watch


def test_a_store_with_a_full_disk_is_restarted_once_there_is_space(tmp_path: Path, free: list[int]) -> None:
    watch = started(tmp_path)
    free.append(0)
    assert watch.restart_reason() == ""
    free.append(RESERVE - 1)
    assert watch.restart_reason() == ""
    free.append(RESERVE)
    assert "was full" in watch.restart_reason()
    watch.on_start()
    assert watch.restart_reason() == ""


def test_touching_the_reserve_does_not_restart_the_store(tmp_path: Path, free: list[int]) -> None:
    watch = started(tmp_path)
    free += [RESERVE - 1]
    assert watch.restart_reason() == ""
    free += [RESERVE]
    assert watch.restart_reason() == ""


def test_a_store_that_fails_to_write_despite_free_space_is_restarted(tmp_path: Path, free: list[int]) -> None:
    watch = started(tmp_path)
    failure_marker(tmp_path).touch()
    assert "although there is space" in watch.restart_reason()


def test_failures_while_the_store_starts_are_ignored(tmp_path: Path, free: list[int]) -> None:
    ready = False
    watch = StoreWatch(tmp_path, RESERVE, lambda: ready)
    failure_marker(tmp_path).touch()
    assert watch.restart_reason() == ""
    ready = True
    assert watch.restart_reason() == ""
    assert watch.restart_reason() == ""
    assert not failure_marker(tmp_path).exists()
