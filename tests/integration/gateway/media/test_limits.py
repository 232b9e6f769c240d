"""Uploads that are too large, too slow, too many, or interrupted."""

import asyncio
from collections.abc import AsyncIterator

from services.shared.storage.client import ObjectStore
from services.shared.storage.settings import StoreSettings
from tests.integration.gateway.conftest import Gateway, StartGateway, until, wav
from tests.integration.gateway.media.conftest import LONG, MIB, error_of, stored_folders, upload


async def test_a_file_over_the_limit_is_refused_with_and_without_content_length(
    start_gateway: StartGateway, store_settings: StoreSettings, store: ObjectStore
) -> None:
    gateway = await start_gateway({}, **store_settings.model_dump(), max_media_bytes=9 * MIB, max_media_seconds=100)

    async def pieces() -> AsyncIterator[bytes]:
        yield b'--b\r\nContent-Disposition: form-data; name="file"; filename="a.wav"\r\n\r\n'
        for start in range(0, len(LONG), 100_000):
            yield LONG[start : start + 100_000]
        yield b"\r\n--b--\r\n"

    headers = {"content-type": "multipart/form-data; boundary=b"}
    chunked = await gateway.http.post("/v1/media", content=pieces(), headers=headers)
    for response in (await upload(gateway, LONG), chunked):
        assert response.status_code in (400, 413)
        assert f"{9 * MIB:,} bytes" in error_of(response)["message"]
    too_long = await upload(gateway, wav(101.0))
    assert too_long.status_code == 400
    assert "100 s" in error_of(too_long)["message"]
    assert stored_folders(store) == []


async def send_head(gateway: Gateway, length: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Starts an upload, and sends the first bytes of its file."""
    host, _, port = gateway.url.removeprefix("http://").partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    form = b'--b\r\nContent-Disposition: form-data; name="file"; filename="a.wav"\r\n\r\nRIFF'
    head = f"POST /v1/media HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {gateway.secret}\r\n"
    head += f"Content-Type: multipart/form-data; boundary=b\r\nContent-Length: {length}\r\n\r\n"
    writer.write(head.encode() + form)
    await writer.drain()
    return reader, writer


async def test_an_upload_that_stalls_times_out(start_gateway: StartGateway, store_settings: StoreSettings) -> None:
    gateway = await start_gateway({}, **store_settings.model_dump(), upload_idle_seconds=0.2)
    reader, writer = await send_head(gateway, 1_000_000)
    assert b" 408 " in await reader.readline()
    writer.close()


async def test_too_many_uploads_at_once_get_429_and_other_requests_do_not(
    start_gateway: StartGateway, store_settings: StoreSettings
) -> None:
    gateway = await start_gateway({}, **store_settings.model_dump(), max_uploads=1)
    _, writer = await send_head(gateway, 1_000_000)

    async def one_runs() -> bool:
        return await gateway.running() == 1

    await until(one_runs)
    response = await upload(gateway, wav(1.0))
    assert response.status_code == 429
    assert response.headers["retry-after"]
    assert (await gateway.http.get("/v1/media")).status_code == 200
    writer.close()

    async def none_runs() -> bool:
        return await gateway.running() == 0

    await until(none_runs)
    assert (await upload(gateway, wav(1.0))).status_code == 200


async def test_a_disconnected_upload_leaves_nothing_behind(gateway: Gateway, store: ObjectStore) -> None:
    _, writer = await send_head(gateway, 100 * MIB)
    writer.write(bytes(20 * MIB))
    await writer.drain()

    async def some_is_written() -> bool:
        return await asyncio.to_thread(lambda: list(store.list("media/acme/uploads/"))) != []

    await until(some_is_written)
    writer.close()

    async def it_is_gone() -> bool:
        return await asyncio.to_thread(lambda: stored_folders(store)) == []

    await until(it_is_gone)
