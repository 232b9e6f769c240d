"""Decoders for all tests that leave them unchanged."""

from collections.abc import Iterator

import pytest

from services.shared.sandbox.decoders import Decoders
from services.shared.sandbox.settings import DecoderSettings


@pytest.fixture(scope="package")
def decoders() -> Iterator[Decoders]:
    made = Decoders(DecoderSettings())
    yield made
    made.close()
