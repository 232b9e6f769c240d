"""Media while the object store is down or full, and after they have expired."""

import asyncio
import time
from pathlib import Path

from services.shared.media.library import MediaLibrary
from services.shared.media.settings import MediaSettings
from services.shared.media.sweeping import SweepCounts, sweep
from services.shared.storage.client import ObjectStore
from services.shared.storage.settings import StoreSettings
from tests.integration.gateway.conftest import Gateway, StartGateway, wav
from tests.integration.gateway.media.conftest import LONG, error_of, put_parts, stored_folders, upload
from tests.servers import StartStore


async def test_a_store_outage_is_a_503_until_the_store_is_back(
    start_gateway: StartGateway, start_store: StartStore
) -> None:
    server = start_store()
    gateway = await start_gateway({}, **server.new_bucket(store_tries=2).model_dump())
    media_id = (await upload(gateway, wav(1.0))).json()["id"]
    server.process.kill()
    for response in (
        await upload(gateway, LONG),
        await gateway.http.get(f"/v1/media/{media_id}"),
        await gateway.http.post("/v1/media/uploads", json={"filename": "a", "bytes": 10}),
    ):
        assert response.status_code == 503
        assert response.headers["retry-after"]
        assert "object store" in error_of(response)["message"]
        assert "127.0.0.1" not in response.text
    assert (await gateway.http.get("/healthz")).status_code == 200
    server.start_again()
    assert (await gateway.http.get(f"/v1/media/{media_id}")).status_code == 200
    assert (await upload(gateway, LONG)).status_code == 200


async def test_a_full_store_is_a_507_while_existing_media_can_be_read_and_deleted(
    start_gateway: StartGateway, gateway: Gateway, store_settings: StoreSettings, tmp_path: Path
) -> None:
    media_id = (await upload(gateway, wav(1.0))).json()["id"]
    local = {"store_folder": tmp_path, "store_reserve_bytes": 2**60}
    full = await start_gateway({}, **store_settings.model_copy(update=local).model_dump())
    for response in (
        await upload(full, wav(1.0)),
        await upload(full, LONG),
        await full.http.post("/v1/media/uploads", json={"filename": "a", "bytes": 10}),
    ):
        assert response.status_code == 507
        assert response.headers["retry-after"]
        assert (error_of(response)["type"], error_of(response)["code"]) == ("server_error", "store_full")
    assert (await full.http.get(f"/v1/media/{media_id}")).status_code == 200
    assert (await full.http.delete(f"/v1/media/{media_id}")).status_code == 200


async def test_expired_media_are_unknown_and_swept(gateway: Gateway, store: ObjectStore) -> None:
    settings = MediaSettings()
    kept = (await upload(gateway, wav(1.0))).json()
    offer = (await gateway.http.post("/v1/media/uploads", json={"filename": "a.wav", "bytes": 10})).json()
    await put_parts(b"0123456789", offer)
    later = time.time()
    library = MediaLibrary(store, settings, lambda: later)
    assert await asyncio.to_thread(sweep, library) == SweepCounts(0, 0)
    later = time.time() + settings.upload_seconds + 7_200
    assert await asyncio.to_thread(sweep, library) == SweepCounts(0, 1)
    assert (await gateway.http.get(f"/v1/media/{kept['id']}")).status_code == 200
    later = time.time() + (settings.media_days + 1) * 86_400
    assert await asyncio.to_thread(sweep, library) == SweepCounts(1, 0)
    assert stored_folders(store) == []
