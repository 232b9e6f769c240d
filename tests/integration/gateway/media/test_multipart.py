"""Uploads in parts that bypass the gateway."""

import hashlib
from typing import Any

import pytest

from services.shared.storage.client import ObjectStore
from tests.integration.gateway.conftest import Gateway, wav
from tests.integration.gateway.media.conftest import error_of, put_parts, stored_folders, upload


async def test_a_large_file_bypasses_the_gateway_in_parts(gateway: Gateway, store: ObjectStore) -> None:
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
    assert stored_folders(store) == ["media/acme/content", "media/acme/records", "media/acme/uploads"]
    assert (await gateway.http.delete(f"/v1/media/uploads/{offer['id']}")).status_code == 404
    assert (await gateway.http.get(f"/v1/media/{media['id']}")).status_code == 200


async def test_missing_wrong_or_short_parts_are_refused(gateway: Gateway, store: ObjectStore) -> None:
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
    assert stored_folders(store) == []
    assert (await gateway.http.post(path, json={"parts": parts})).status_code == 404


async def test_an_aborted_or_invalid_multipart_upload_leaves_nothing(gateway: Gateway, store: ObjectStore) -> None:
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
        assert stored_folders(store) == []


@pytest.mark.parametrize("size", [0, -1, 5 * 2**40, "1", None])
async def test_an_upload_of_invalid_size_is_refused(gateway: Gateway, size: Any) -> None:
    response = await gateway.http.post("/v1/media/uploads", json={"filename": "a.wav", "bytes": size})
    assert response.status_code == 400
    assert error_of(response)["param"] in ("bytes", "file")
