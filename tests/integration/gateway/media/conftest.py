"""A gateway with an object store and no model services, and uploads to it."""

from typing import Any

import httpx
import pytest

from services.shared.storage.client import ObjectStore
from services.shared.storage.settings import StoreSettings
from tests.integration.gateway.conftest import Gateway, StartGateway, wav

MIB = 2**20
LONG = wav(400.0)  # 12.8 MB: more than one part of a stream


@pytest.fixture
async def gateway(start_gateway: StartGateway, store_settings: StoreSettings) -> Gateway:
    """A gateway with an object store, and no model services."""
    return await start_gateway({}, **store_settings.model_dump())


@pytest.fixture
def store(store_settings: StoreSettings) -> ObjectStore:
    return ObjectStore(store_settings)


async def upload(gateway: Gateway, data: bytes, filename: str = "a.wav", secret: str = "") -> httpx.Response:
    headers = {"Authorization": f"Bearer {secret}"} if secret else None
    return await gateway.http.post("/v1/media", files={"file": (filename, data)}, headers=headers)


def stored_folders(store: ObjectStore) -> list[str]:
    """The folder of each object in the store."""
    return [each.key.rpartition("/")[0] for each in store.list("")]


def error_of(response: httpx.Response) -> dict[str, Any]:
    error: dict[str, Any] = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    return error


async def put_parts(data: bytes, offer: dict[str, Any]) -> list[dict[str, Any]]:
    parts = []
    async with httpx.AsyncClient(trust_env=False) as client:
        for part in offer["parts"]:
            start = (part["number"] - 1) * offer["part_bytes"]
            answer = await client.put(part["url"], content=data[start : start + offer["part_bytes"]])
            assert answer.status_code == 200
            parts.append({"number": part["number"], "etag": answer.headers["etag"]})
    return parts
