"""Decoders for all tests that leave them as they were."""

from collections.abc import Iterator

import pytest

from services.common.sandbox.decoders import Decoders
from services.common.sandbox.settings import DecoderSettings


@pytest.fixture(scope="package")
def decoders() -> Iterator[Decoders]:
    made = Decoders(DecoderSettings())
    yield made
    made.close()
