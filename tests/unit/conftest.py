"""Unit tests run in a single process and need no weights; this fails those that do otherwise.

Tests that start a process belong to tests/integration, those that load nano's weights to tests/e2e.
"""

import multiprocessing.process
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

import pytest

UNIT = Path(__file__).parent
_STARTERS = (
    (subprocess.Popen, "__init__"),
    (multiprocessing.process.BaseProcess, "start"),
    (os, "fork"),
    (os, "forkpty"),
    (os, "posix_spawn"),
    (os, "posix_spawnp"),
    (os, "system"),
)


def _refuse(*arguments: Any, **options: Any) -> NoReturn:
    pytest.fail("a unit test starts a process: move it to tests/integration")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    """A hook and not a fixture, so that it covers fixtures of every scope."""
    if UNIT not in item.path.parents:
        return (yield)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LYRA_HOME", "/nonexistent/unit-tests-need-no-weights")
        for owner, name in _STARTERS:
            patch.setattr(owner, name, _refuse)
        return (yield)
