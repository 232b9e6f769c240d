"""Media through the HTTP API: uploaded, listed and deleted, in a real object store."""

import asyncio
import hashlib
import time
from typing import Any

import pytest

from services.shared.storage.client import ObjectStore
from tests.integration.gateway.conftest import Gateway, picture, wav
from tests.integration.gateway.media.conftest import LONG, error_of, stored_folders, upload
from tests.integration.gateway.test_bad_input import png_bomb
from tests.videos import make_video


@pytest.mark.parametrize("data", [wav(1.0), LONG], ids=["small", "of several parts"])
async def test_a_recording_is_stored_unchanged(gateway: Gateway, store: ObjectStore, data: bytes) -> None:
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
    assert stored_folders(store) == ["media/acme/content", "media/acme/records"]
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
async def test_a_file_is_identified_by_its_bytes(gateway: Gateway, make: Any, kind: str, container: str) -> None:
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
async def test_a_file_that_is_not_media_is_refused_and_leaves_nothing(
    gateway: Gateway, store: ObjectStore, case: str
) -> None:
    response = await upload(gateway, BAD[case])
    assert response.status_code == 400
    error = error_of(response)
    assert error["param"] == "file"
    assert error["message"].startswith("file: ")
    assert stored_folders(store) == []


async def test_the_same_file_is_stored_once_per_tenant(gateway: Gateway, store: ObjectStore) -> None:
    _, other = gateway.keys.create("other")
    ids = [(await upload(gateway, LONG, name)).json()["id"] for name in ("a.wav", "b.wav")]
    ids.append((await upload(gateway, LONG, "c.wav", other)).json()["id"])
    assert len(set(ids)) == 1
    tenants = ["media/acme/content", "media/acme/records", "media/other/content", "media/other/records"]
    assert stored_folders(store) == tenants


async def test_concurrent_uploads_of_the_same_file_are_stored_once(gateway: Gateway, store: ObjectStore) -> None:
    data = wav(1.0)
    responses = await asyncio.gather(*(upload(gateway, data) for _ in range(6)))
    assert {response.status_code for response in responses} == {200}
    assert stored_folders(store) == ["media/acme/content", "media/acme/records"]


async def test_another_tenants_media_look_like_unknown_ones(gateway: Gateway) -> None:
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
async def test_an_invalid_id_is_unknown(gateway: Gateway, media_id: str) -> None:
    assert (await gateway.http.get(f"/v1/media/{media_id}")).status_code == 404


async def test_media_are_listed_in_pages_and_can_be_deleted(gateway: Gateway, store: ObjectStore) -> None:
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
    assert stored_folders(store) == []
    assert (await gateway.http.get("/v1/media", params={"limit": 0})).status_code == 400


async def test_a_deleted_file_may_be_uploaded_again(gateway: Gateway) -> None:
    first = (await upload(gateway, wav(1.0))).json()
    await gateway.http.delete(f"/v1/media/{first['id']}")
    assert (await upload(gateway, wav(1.0))).json()["id"] == first["id"]
    assert (await gateway.http.get(f"/v1/media/{first['id']}")).status_code == 200
