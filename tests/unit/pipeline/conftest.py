from collections.abc import AsyncIterator

import pytest

from services.shared.pipeline.clients import NAMES, ModelClients
from tests.unit.pipeline.scripted import Script, scripted_services


@pytest.fixture
def script() -> Script:
    return Script()


@pytest.fixture
async def services(script: Script) -> AsyncIterator[ModelClients]:
    """Channels to the scripted services."""
    async with scripted_services(script) as address:
        opened = ModelClients.open(dict.fromkeys(NAMES, address))
        yield opened
        await opened.close()


@pytest.fixture
async def unreachable() -> AsyncIterator[ModelClients]:
    """Channels to services that are down: the discard port refuses connections."""
    opened = ModelClients.open(dict.fromkeys(NAMES, "127.0.0.1:9"))
    yield opened
    await opened.close()
