"""One stack of preset nano, shared by all tests that only send requests."""

from collections.abc import Iterator

import pytest

from model_core.presets import lyra_home
from services.operations.local.stack import Stack


@pytest.fixture(scope="session")
def nano_stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    home = tmp_path_factory.mktemp("nano")
    (home / "weights").symlink_to(lyra_home() / "weights")
    with Stack(preset="nano", home=home, announce=False) as running:
        yield running
