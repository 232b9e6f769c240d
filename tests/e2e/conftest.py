"""One stack of preset nano for all tests that ask it something."""

from collections.abc import Iterator

import pytest

from model_core.presets import lyra_home
from services.local.stack import Stack


@pytest.fixture(scope="session")
def nano_stack() -> Iterator[Stack]:
    with Stack(preset="nano", home=lyra_home(), announce=False) as running:
        yield running
