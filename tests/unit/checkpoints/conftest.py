"""A miniature published folder: a shared one, and a copy to damage."""

import shutil
from pathlib import Path

import pytest

from tests.unit.checkpoints import small
from tests.unit.checkpoints.small import SmallLyra


@pytest.fixture(scope="session")
def lyra_model() -> SmallLyra:
    return small.make()


@pytest.fixture(scope="session")
def whole(lyra_model: SmallLyra, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return lyra_model.export(tmp_path_factory.mktemp("published") / "Lyra_Small", shard_size="40KB")


@pytest.fixture
def folder(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "Lyra_Small"))
