"""Multipart uploads: concurrent parts, retries, resumption, and no incomplete files."""

import json
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cli.client import GatewayClient, Refused, TryLater
from cli.connection import Connection
from cli.failure import CommandFailed
from cli.upload import upload_file
from tests.unit.cli.scripted_gateway import Answer, Asked, Reply, as_json, refusal, scripted_gateway

PART_BYTES = 100_000
PARTS = 7
CONTENT = b"".join(number.to_bytes(4) for number in range((PARTS * PART_BYTES - 1_000) // 4))
FAR_FUTURE = 4_000_000_000
UNHARMED = Reply()


def unharmed(asked: Asked) -> Reply:
    return UNHARMED


class Store:
    """An object store and the gateway in front of it; `harm` may answer in their place."""

    def __init__(self) -> None:
        self.url = ""
        self.parts: dict[int, bytes] = {}
        self.puts: list[int] = []
        self.offers = 0
        self.given_up = False
        self.whole: bytes | None = None
        self.parts_url = ""  # where parts are to be uploaded
        self.harm: Answer = unharmed
        self._lock = threading.Lock()

    def __call__(self, asked: Asked) -> Reply:
        with self._lock:
            if asked.path.startswith("/part/"):
                self.puts.append(int(asked.path.rpartition("/")[2]))
            harm = self.harm(asked)
            return harm if harm is not UNHARMED else self._answer(asked)

    def _answer(self, asked: Asked) -> Reply:
        if asked.path.startswith("/part/"):
            assert "Authorization" not in asked.headers
            number = int(asked.path.rpartition("/")[2])
            self.parts[number] = asked.body
            return Reply(headers={"ETag": f'"etag-{number}"'})
        assert asked.headers["Authorization"] == "Bearer k"
        match asked.method, asked.path:
            case "POST", "/v1/media/uploads":
                assert asked.json == {"filename": "day.wav", "bytes": len(CONTENT)}
                self.offers += 1
                return as_json(self._offer())
            case "POST", "/v1/media/uploads/upload-1/complete":
                numbers = [part["number"] for part in asked.json["parts"]]
                assert [part["etag"] for part in asked.json["parts"]] == [f"etag-{number}" for number in numbers]
                self.whole = b"".join(self.parts[number] for number in numbers)
                return as_json({"id": "media-1"})
            case "DELETE", "/v1/media/uploads/upload-1":
                self.given_up = True
                return as_json({})
            case "POST", "/v1/media":
                self.whole = asked.body
                return as_json({"id": "media-1"})
        raise AssertionError(asked.path)

    def _offer(self) -> dict[str, Any]:
        parts = [{"number": number, "url": f"{self.parts_url}/part/{number}"} for number in range(1, PARTS + 1)]
        # Not in file order: the part numbers count.
        return {"id": "upload-1", "part_bytes": PART_BYTES, "expires_at": FAR_FUTURE, "parts": parts[::-1]}


@pytest.fixture
def file(home: Path, tmp_path: Path) -> Path:
    path = tmp_path / "day.wav"
    path.write_bytes(CONTENT)
    return path


@pytest.fixture
def store() -> Iterator[Store]:
    made = Store()
    with scripted_gateway(made) as (made.url, _):
        made.parts_url = made.url
        yield made


def send(store: Store, file: Path, told: list[int] | None = None, detours: list[str] | None = None) -> dict[str, Any]:
    """Uploads in parts; returns the media object."""
    told, detours = told if told is not None else [], detours if detours is not None else []
    with GatewayClient(Connection(store.url, "k")) as gateway:
        return upload_file(gateway, file, told.append, detours.append, direct_bytes=1)


def kept(home: Path) -> list[Path]:
    return list((home / "uploads").glob("*"))


def refuse_part(number: int, reply: Reply, times: int = 1) -> Answer:
    """Gives this answer to the first few uploads of a part."""
    left = [reply] * times

    def harm(asked: Asked) -> Reply:
        return left.pop() if left and asked.path == f"/part/{number}" else UNHARMED

    return harm


def test_parts_reassemble_to_the_file(store: Store, file: Path, home: Path) -> None:
    told: list[int] = []
    assert send(store, file, told) == {"id": "media-1"}
    assert store.whole == CONTENT
    assert sum(told) == len(CONTENT)
    assert kept(home) == []


def test_a_part_is_retried_after_transient_errors(store: Store, file: Path) -> None:
    store.harm = refuse_part(3, Reply(status=503), times=2)
    told: list[int] = []
    send(store, file, told)
    assert store.whole == CONTENT
    assert store.puts.count(3) == 3
    assert sum(told) == len(CONTENT)


def test_an_interrupted_upload_resumes_with_the_missing_parts(store: Store, file: Path, home: Path) -> None:
    store.harm = lambda asked: refusal(503, "away") if asked.path.endswith("complete") else UNHARMED
    with pytest.raises(TryLater) as failure:
        send(store, file)
    assert "run the same command again" in failure.value.hint
    (state,) = kept(home)
    assert state.stat().st_mode & 0o077 == 0
    # As if the last two parts had not been sent.
    content = json.loads(state.read_text())
    del content["etags"]["6"], content["etags"]["7"]
    state.write_text(json.dumps(content))
    store.puts.clear()
    store.harm = unharmed
    told: list[int] = []
    assert send(store, file, told) == {"id": "media-1"}
    assert sorted(store.puts) == [6, 7]
    assert store.offers == 1
    assert store.whole == CONTENT
    assert sum(told) == len(CONTENT)
    assert kept(home) == []


def test_another_file_of_the_same_name_does_not_resume_an_old_upload(store: Store, file: Path) -> None:
    store.harm = lambda asked: refusal(503, "away") if asked.path.endswith("complete") else UNHARMED
    with pytest.raises(TryLater):
        send(store, file)
    before = file.stat()
    file.write_bytes(CONTENT[::-1])
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns + 1))
    store.harm = unharmed
    send(store, file)
    assert store.offers == 2
    assert store.whole == CONTENT[::-1]


def test_an_expired_upload_starts_over(store: Store, file: Path) -> None:
    store.harm = lambda asked: refusal(404, "There is no upload.") if asked.path.endswith("complete") else UNHARMED
    with pytest.raises(CommandFailed) as failure:
        send(store, file)
    assert "start over" in failure.value.hint
    store.harm = unharmed
    send(store, file)
    assert store.offers == 2
    assert store.whole == CONTENT


def test_a_permanently_refused_part_ends_the_upload(store: Store, file: Path, home: Path) -> None:
    store.harm = refuse_part(2, Reply(status=403))
    told: list[int] = []
    with pytest.raises(CommandFailed, match=r"refused part 2 \(HTTP 403\)"):
        send(store, file, told)
    assert store.whole is None
    assert sum(told) == 0
    assert kept(home) == []


def test_the_gateways_error_about_a_file_that_is_not_media_is_shown(store: Store, file: Path, home: Path) -> None:
    no_media = refusal(400, "file: is no sound that can be read")
    store.harm = lambda asked: no_media if asked.path.endswith("complete") else UNHARMED
    with pytest.raises(Refused, match="is no sound"):
        send(store, file)
    assert kept(home) == []


def test_a_file_that_changes_during_the_upload_is_an_error(store: Store, file: Path) -> None:
    def change(asked: Asked) -> Reply:
        if asked.path == "/part/7":
            os.utime(file, ns=(0, 0))
        return UNHARMED

    store.harm = change
    with pytest.raises(CommandFailed, match="changed while it was uploaded"):
        send(store, file)
    assert store.whole is None
    assert store.given_up


def test_with_an_unreachable_store_the_file_is_sent_through_the_gateway(store: Store, file: Path, home: Path) -> None:
    store.parts_url = "http://127.0.0.1:9"
    told: list[int] = []
    detours: list[str] = []
    assert send(store, file, told, detours) == {"id": "media-1"}
    assert store.whole is not None
    assert CONTENT in store.whole
    assert store.given_up
    assert "127.0.0.1:9" in detours[0]
    assert sum(told) == len(CONTENT)
    assert kept(home) == []


def test_a_small_file_is_sent_through_the_gateway_in_one_request(store: Store, file: Path) -> None:
    told: list[int] = []
    with GatewayClient(Connection(store.url, "k")) as gateway:
        upload_file(gateway, file, told.append, lambda text: None)
    assert store.offers == 0
    assert CONTENT in (store.whole or b"")
    assert sum(told) == len(CONTENT)


def test_an_empty_file_is_not_sent(store: Store, file: Path) -> None:
    file.write_bytes(b"")
    with pytest.raises(CommandFailed, match="is empty"):
        send(store, file)
    assert store.offers == 0
