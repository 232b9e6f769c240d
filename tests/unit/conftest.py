"""Unit tests run in this process alone and need no weights; this fails those that do otherwise.

What starts a process belongs to tests/integration, what loads the weights of preset nano to tests/e2e.
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
    """Covers fixtures of every scope, which a fixture would not."""
    if UNIT not in item.path.parents:
        return (yield)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LYRA_HOME", "/nonexistent/unit-tests-need-no-weights")
        for owner, name in _STARTERS:
            patch.setattr(owner, name, _refuse)
        return (yield)
