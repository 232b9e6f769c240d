"""Media through the HTTP API, kept in a real object store."""

import asyncio
import hashlib
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from services.shared.media.library import MediaLibrary
from services.shared.media.settings import MediaSettings
from services.shared.media.sweeping import SweepCounts, sweep
from services.shared.storage.client import ObjectStore
from services.shared.storage.settings import StoreSettings
from tests.integration.gateway.conftest import Gateway, StartGateway, picture, until, wav
from tests.integration.gateway.test_bad_input import png_bomb
from tests.servers import StartStore
from tests.videos import make_video

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


def keys(store: ObjectStore) -> list[str]:
    return [each.key.rpartition("/")[0] for each in store.list("")]


def error_of(response: httpx.Response) -> dict[str, Any]:
    error: dict[str, Any] = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    return error


@pytest.mark.parametrize("data", [wav(1.0), LONG], ids=["small", "of several parts"])
async def test_a_recording_is_kept_as_it_came(gateway: Gateway, store: ObjectStore, data: bytes) -> None:
    response = await upload(gateway, data, "C:\\music\\tune.wav")
    assert response.status_code == 200, response.text
    media = response.json()
    digest = hashlib.sha256(data).hexdigest()
    assert media["id"] == f"media-{digest[:32]}"
    assert (media["object"], media["sha256"], media["bytes"]) == ("media", digest, len(data))
    assert (media["filename"], media["kind"], media["container"], media["codec"]) == (
        "tune.wav",
        "audio",
        "wav",
        "pcm_s16le",
    )
    assert (media["channels"], media["sample_rate"]) == (1, 16_000)
    assert media["seconds"] == pytest.approx(len(data) / 32_000, abs=0.1)
    assert media["expires_at"] > media["created_at"] > time.time() - 3_600
    assert "content" not in media
    assert (await gateway.http.get(f"/v1/media/{media['id']}")).json() == media
    assert keys(store) == ["media/acme/content", "media/acme/records"]
    assert store.get(next(store.list("media/acme/content/")).key) == data


@pytest.mark.parametrize(
    ("make", "kind", "container"),
    [
        (lambda: make_video("mp4", loudness=0.3), "video", "mp4"),
        (lambda: make_video("mp4"), "video", "mp4"),
        (lambda: picture("PNG"), "image", "png"),
        (lambda: picture("JPEG"), "image", "jpeg"),
        (lambda: picture("WEBP"), "image", "webp"),
    ],
    ids=["video", "silent video", "png", "jpeg", "webp"],
)
async def test_what_a_file_is_is_told_by_its_bytes(gateway: Gateway, make: Any, kind: str, container: str) -> None:
    media = (await upload(gateway, make(), "what.mp3")).json()
    assert (media["kind"], media["container"]) == (kind, container)


BAD: dict[str, bytes] = {
    "nothing": b"",
    "noise": b"\x01\x02" * 4_000,
    "a text": b"What is a prime number? " * 100,
    "a playlist": b"#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n",
    "a wav without samples": wav(0.0),
    "half a png header": picture("PNG")[:12],
    "a png bomb": png_bomb(),
    "a gif": b"GIF89a" + bytes(100),
}


@pytest.mark.parametrize("case", BAD)
async def test_what_is_no_media_is_refused_and_leaves_nothing(gateway: Gateway, store: ObjectStore, case: str) -> None:
    response = await upload(gateway, BAD[case])
    assert response.status_code == 400
    error = error_of(response)
    assert error["param"] == "file"
    assert error["message"].startswith("file: ")
    assert keys(store) == []


async def test_the_same_file_twice_is_kept_once_for_each_tenant(gateway: Gateway, store: ObjectStore) -> None:
    _, other = gateway.keys.create("other")
    ids = [(await upload(gateway, LONG, name)).json()["id"] for name in ("a.wav", "b.wav")]
    ids.append((await upload(gateway, LONG, "c.wav", other)).json()["id"])
    assert len(set(ids)) == 1
    tenants = ["media/acme/content", "media/acme/records", "media/other/content", "media/other/records"]
    assert keys(store) == tenants


async def test_the_same_file_many_times_at_once_is_kept_once(gateway: Gateway, store: ObjectStore) -> None:
    data = wav(1.0)
    responses = await asyncio.gather(*(upload(gateway, data) for _ in range(6)))
    assert {response.status_code for response in responses} == {200}
    assert keys(store) == ["media/acme/content", "media/acme/records"]


async def test_another_tenants_media_are_as_unknown_as_those_that_never_were(gateway: Gateway) -> None:
    media_id = (await upload(gateway, wav(1.0))).json()["id"]
    _, other = gateway.keys.create("other")
    headers = {"Authorization": f"Bearer {other}"}
    unknown = "media-" + "0" * 32
    for method in ("GET", "DELETE"):
        theirs = await gateway.http.request(method, f"/v1/media/{media_id}", headers=headers)
        never = await gateway.http.request(method, f"/v1/media/{unknown}", headers=headers)
        assert theirs.status_code == never.status_code == 404
        assert error_of(theirs)["message"].replace(media_id, unknown) == error_of(never)["message"]
    assert (await gateway.http.get("/v1/media", headers=headers)).json()["data"] == []
    assert (await gateway.http.get(f"/v1/media/{media_id}")).status_code == 200


@pytest.mark.parametrize("media_id", ["x", "media-" + "G" * 32, "..%2F..%2Fsecret", "media-" + "0" * 31])
async def test_what_is_no_id_is_unknown(gateway: Gateway, media_id: str) -> None:
    assert (await gateway.http.get(f"/v1/media/{media_id}")).status_code == 404


async def test_media_are_listed_in_pages_and_gone_when_deleted(gateway: Gateway, store: ObjectStore) -> None:
    ids = sorted([(await upload(gateway, wav(0.5 + number / 10))).json()["id"] for number in range(5)])
    found: list[str] = []
    more, after = True, ""
    while more:
        page = (await gateway.http.get("/v1/media", params={"limit": 2, "after": after})).json()
        assert (page["first_id"], page["last_id"]) == (page["data"][0]["id"], page["data"][-1]["id"])
        found += [media["id"] for media in page["data"]]
        more, after = page["has_more"], page["last_id"]
    assert found == ids
    for media_id in ids:
        answer = await gateway.http.delete(f"/v1/media/{media_id}")
        assert answer.json() == {"id": media_id, "object": "media.deleted", "deleted": True}
        assert (await gateway.http.get(f"/v1/media/{media_id}")).status_code == 404
    assert keys(store) == []
    assert (await gateway.http.get("/v1/media", params={"limit": 0})).status_code == 400


async def test_what_was_deleted_may_come_again(gateway: Gateway) -> None:
    first = (await upload(gateway, wav(1.0))).json()
    await gateway.http.delete(f"/v1/media/{first['id']}")
    assert (await upload(gateway, wav(1.0))).json()["id"] == first["id"]
    assert (await gateway.http.get(f"/v1/media/{first['id']}")).status_code == 200


async def test_a_file_over_the_limit_is_refused_with_and_without_its_length(
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
    assert keys(store) == []


async def send_head(gateway: Gateway, length: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Begins an upload, and sends the first bytes of its file."""
    host, _, port = gateway.url.removeprefix("http://").partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    form = b'--b\r\nContent-Disposition: form-data; name="file"; filename="a.wav"\r\n\r\nRIFF'
    head = f"POST /v1/media HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {gateway.secret}\r\n"
    head += f"Content-Type: multipart/form-data; boundary=b\r\nContent-Length: {length}\r\n\r\n"
    writer.write(head.encode() + form)
    await writer.drain()
    return reader, writer


async def test_an_upload_that_stalls_is_given_up(start_gateway: StartGateway, store_settings: StoreSettings) -> None:
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

    async def nobody_runs() -> bool:
        return await gateway.running() == 0

    await until(nobody_runs)
    assert (await upload(gateway, wav(1.0))).status_code == 200


async def test_a_client_that_hangs_up_leaves_nothing_behind(gateway: Gateway, store: ObjectStore) -> None:
    _, writer = await send_head(gateway, 100 * MIB)
    writer.write(bytes(20 * MIB))
    await writer.drain()

    async def some_is_written() -> bool:
        return await asyncio.to_thread(lambda: list(store.list("media/acme/uploads/"))) != []

    await until(some_is_written)
    writer.close()

    async def it_is_gone() -> bool:
        return await asyncio.to_thread(lambda: keys(store)) == []

    await until(it_is_gone)


FORMS: dict[str, tuple[bytes, str]] = {
    "no file": (b'--b\r\nContent-Disposition: form-data; name="x"\r\n\r\n1\r\n--b--\r\n', "x"),
    "an empty form": (b"--b--\r\n", "file"),
    "a file that is a field": (b'--b\r\nContent-Disposition: form-data; name="file"\r\n\r\n1\r\n--b--\r\n', "file"),
    "another file": (b'--b\r\nContent-Disposition: form-data; name="f"; filename="a"\r\n\r\n1\r\n--b--\r\n', "f"),
    "no name": (b"--b\r\nContent-Disposition: form-data\r\n\r\n1\r\n--b--\r\n", ""),
    "no end": (b'--b\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\nRIFF', ""),
    "no form": (b"RIFF", ""),
}


@pytest.mark.parametrize("case", FORMS)
async def test_a_broken_form_is_a_400(gateway: Gateway, store: ObjectStore, case: str) -> None:
    body, param = FORMS[case]
    headers = {"content-type": "multipart/form-data; boundary=b"}
    response = await gateway.http.post("/v1/media", content=body, headers=headers)
    assert response.status_code == 400
    assert error_of(response)["param"] == (param or None)
    assert keys(store) == []


@pytest.mark.parametrize("kind", ["application/json", "multipart/form-data", "text/plain"])
async def test_another_kind_of_body_is_a_400(gateway: Gateway, kind: str) -> None:
    response = await gateway.http.post("/v1/media", content=b"{}", headers={"content-type": kind})
    assert response.status_code == 400
    assert error_of(response)["code"] == "invalid_form"


async def put_parts(data: bytes, offer: dict[str, Any]) -> list[dict[str, Any]]:
    parts = []
    async with httpx.AsyncClient(trust_env=False) as client:
        for part in offer["parts"]:
            start = (part["number"] - 1) * offer["part_bytes"]
            answer = await client.put(part["url"], content=data[start : start + offer["part_bytes"]])
            assert answer.status_code == 200
            parts.append({"number": part["number"], "etag": answer.headers["etag"]})
    return parts


async def test_a_large_file_goes_past_the_gateway_in_parts(gateway: Gateway, store: ObjectStore) -> None:
    data = wav(600.0)
    offer = (await gateway.http.post("/v1/media/uploads", json={"filename": "a.wav", "bytes": len(data)})).json()
    assert (offer["object"], len(offer["parts"])) == ("media.upload", -(-len(data) // offer["part_bytes"]))
    path = f"/v1/media/uploads/{offer['id']}/complete"
    parts = await put_parts(data, offer)
    _, other = gateway.keys.create("other")
    theirs = await gateway.http.post(path, json={"parts": parts}, headers={"Authorization": f"Bearer {other}"})
    assert theirs.status_code == 404
    media = (await gateway.http.post(path, json={"parts": parts})).json()
    assert (media["sha256"], media["kind"], media["bytes"]) == (hashlib.sha256(data).hexdigest(), "audio", len(data))
    assert (await gateway.http.post(path, json={"parts": parts})).json() == media
    assert (await upload(gateway, data)).json()["id"] == media["id"]
    assert keys(store) == ["media/acme/content", "media/acme/records", "media/acme/uploads"]
    assert (await gateway.http.delete(f"/v1/media/uploads/{offer['id']}")).status_code == 404
    assert (await gateway.http.get(f"/v1/media/{media['id']}")).status_code == 200


async def test_parts_that_are_missing_wrong_or_short_are_refused(gateway: Gateway, store: ObjectStore) -> None:
    data = wav(600.0)
    offer = (await gateway.http.post("/v1/media/uploads", json={"filename": "a.wav", "bytes": len(data)})).json()
    path = f"/v1/media/uploads/{offer['id']}/complete"
    parts = await put_parts(data, offer)
    wrong: list[list[dict[str, Any]]] = [parts[:-1], parts[::-1], [{**part, "etag": "0" * 32} for part in parts]]
    for each in wrong:
        response = await gateway.http.post(path, json={"parts": each})
        assert (response.status_code, error_of(response)["param"]) == (400, "parts")
    parts = await put_parts(data[: offer["part_bytes"] + 10], offer)
    response = await gateway.http.post(path, json={"parts": parts})
    assert (response.status_code, error_of(response)["param"]) == (400, "parts")
    assert "announced" in error_of(response)["message"]
    assert keys(store) == []
    assert (await gateway.http.post(path, json={"parts": parts})).status_code == 404


async def test_an_upload_in_parts_that_is_no_media_or_given_up_leaves_nothing(
    gateway: Gateway, store: ObjectStore
) -> None:
    for data, ended in ((b"\x01\x02" * 4_000, "complete"), (wav(1.0), "given up")):
        asked = {"filename": "a.wav", "bytes": len(data)}
        offer = (await gateway.http.post("/v1/media/uploads", json=asked)).json()
        path = f"/v1/media/uploads/{offer['id']}"
        parts = await put_parts(data, offer)
        if ended == "complete":
            response = await gateway.http.post(f"{path}/complete", json={"parts": parts})
            assert (response.status_code, error_of(response)["param"]) == (400, "file")
        else:
            assert (await gateway.http.delete(path)).json()["deleted"] is True
        assert keys(store) == []


@pytest.mark.parametrize("size", [0, -1, 5 * 2**40, "1", None])
async def test_an_upload_of_no_sane_size_is_refused(gateway: Gateway, size: Any) -> None:
    response = await gateway.http.post("/v1/media/uploads", json={"filename": "a.wav", "bytes": size})
    assert response.status_code == 400
    assert error_of(response)["param"] in ("bytes", "file")


async def test_a_store_that_is_down_is_a_503_and_used_again_when_it_is_back(
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


async def test_a_full_store_is_a_507_while_what_is_there_can_be_read_and_deleted(
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


async def test_what_is_past_its_time_is_gone_and_swept(gateway: Gateway, store: ObjectStore) -> None:
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
    assert keys(store) == []
