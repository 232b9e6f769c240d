"""The object store's client against a real S3 server."""

import io
import pickle
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from services.shared.storage.client import ObjectStore
from services.shared.storage.disk_space import failure_marker
from services.shared.storage.settings import StoreSettings
from services.shared.storage.store_errors import InvalidParts, ObjectMissing, StoreFull, StoreUnavailable
from tests.servers import StartStore, StoreServer

MIB = 2**20
PART = 5 * MIB


class Refusal(BaseHTTPRequestHandler):
    """Refuses every request with an S3 error, and counts them."""

    status, code, heard = 500, "", 0

    def refuse(self) -> None:
        Refusal.heard += 1
        self.rfile.read(int(self.headers.get("content-length") or 0))
        body = f"<Error><Code>{self.code}</Code><Message>no</Message></Error>".encode()
        self.send_response(self.status)
        self.send_header("content-type", "application/xml")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_PUT = do_POST = do_GET = refuse

    def log_message(self, *_: object) -> None:
        return


@contextmanager
def answering(status: int, code: str) -> Iterator[str]:
    """host:port of a server that refuses everything."""
    Refusal.status, Refusal.code, Refusal.heard = status, code, 0
    with ThreadingHTTPServer(("127.0.0.1", 0), Refusal) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        yield f"127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_an_object_is_written_and_replaced_as_a_whole(object_store: ObjectStore) -> None:
    for data in (b"one", b"", bytes(range(256)) * 1_000):
        object_store.put("a/b.json", data)
        assert object_store.get("a/b.json") == data
        found = object_store.stat("a/b.json")
        assert found is not None
        assert (found.key, found.size) == ("a/b.json", len(data))


@pytest.mark.parametrize("key", ["ü/ß &?+#%=.json", "a b/c", "x~!*'()/y"])
def test_keys_are_used_verbatim(object_store: ObjectStore, key: str) -> None:
    object_store.put(key, b"1")
    assert object_store.get(key) == b"1"
    assert not object_store.put_new(key, b"2")
    assert [each.key for each in object_store.list("")] == [key]


def test_a_missing_object_is_reported_and_deleting_it_is_not_an_error(object_store: ObjectStore) -> None:
    assert object_store.stat("nothing") is None
    for call in (object_store.get, object_store.open):
        with pytest.raises(ObjectMissing, match="nothing"):
            call("nothing")
    object_store.delete("nothing")
    object_store.delete_all("nothing/")


def test_put_new_writes_once(object_store: ObjectStore) -> None:
    assert object_store.put_new("a", b"first")
    assert not object_store.put_new("a", b"second")
    assert object_store.get("a") == b"first"
    object_store.delete("a")
    assert object_store.put_new("a", b"third")


def test_exactly_one_of_many_concurrent_writers_wins(object_store: ObjectStore) -> None:
    with ThreadPoolExecutor(8) as pool:
        for key in ("a", "b", "c"):
            values = [f"{number}".encode() for number in range(8)]
            won = pool.map(object_store.put_new, [key] * len(values), values)
            assert [value for value, first in zip(values, won, strict=True) if first] == [object_store.get(key)]


def test_lists_include_subfolders_and_start_after_a_key(object_store: ObjectStore) -> None:
    keys = ["l/a/1", "l/a/2", "l/b/c/1", "l/z", "m"]
    for key in keys:
        object_store.put(key, b"x")
    assert [each.key for each in object_store.list("l/")] == keys[:4]
    assert [each.key for each in object_store.list("l/", after="l/a/1")] == keys[1:4]
    assert [each.key for each in object_store.list("l/a/", after="l/a/2")] == []
    assert list(object_store.folders("l/")) == ["a", "b"]
    assert list(object_store.folders("")) == ["l"]


def test_a_list_of_several_pages_is_complete_and_can_be_deleted(object_store: ObjectStore) -> None:
    keys = [f"many/{number:05}" for number in range(1_050)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda key: object_store.put(key, b"x"), keys))
    assert [each.key for each in object_store.list("many/")] == keys
    object_store.put("many-others", b"x")
    object_store.delete_all("many/")
    assert [each.key for each in object_store.list("")] == ["many-others"]


STEPS = st.tuples(st.sampled_from([0, 1, 2]), st.integers(-3_000, 12_000), st.integers(-1, 9_000))
DATA = bytes(number * 7 % 251 for number in range(10_000))


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    steps=st.lists(
        st.tuples(st.sampled_from([0, 1, 2]), st.integers(-3_000, 12_000), st.integers(-1, 9_000)), max_size=6
    )
)
def test_an_open_object_reads_like_a_file(object_store: ObjectStore, steps: list[tuple[int, int, int]]) -> None:
    object_store.put_new("file", DATA)
    expected = io.BytesIO(DATA)
    with object_store.open("file", block_bytes=1_000) as file:
        for whence, offset, count in steps:
            base = {0: 0, 1: expected.tell(), 2: len(DATA)}[whence]
            if base + offset >= 0:
                assert file.seek(offset, whence) == expected.seek(base + offset)
            assert file.read(count) == expected.read(count)
            assert file.tell() == expected.tell()


def test_a_replaced_object_is_not_mixed_with_the_open_one(object_store: ObjectStore) -> None:
    object_store.put("file", b"a" * 3_000)
    with object_store.open("file", block_bytes=1_000) as file:
        assert file.read(1_000) == b"a" * 1_000
        object_store.put("file", b"b" * 3_000)
        with pytest.raises(ObjectMissing):
            file.read(1_000)


def test_parts_become_an_object_once_completed(object_store: ObjectStore) -> None:
    upload = object_store.begin_parts("big")
    etags = [object_store.put_part("big", upload, 1, b"a" * PART)]
    etags.append(object_store.put_part("big", upload, 2, b"b" * 10))
    assert object_store.stat("big") is None
    object_store.finish_parts("big", upload, etags)
    assert object_store.get("big") == b"a" * PART + b"b" * 10
    object_store.finish_parts("big", upload, etags)  # a client that missed the response asks again
    object_store.abort_parts("big", upload)
    assert object_store.stat("big") is not None


def test_wrong_parts_are_refused_and_can_be_replaced(object_store: ObjectStore) -> None:
    upload = object_store.begin_parts("big")
    etag = object_store.put_part("big", upload, 1, b"a")
    with pytest.raises(InvalidParts):
        object_store.finish_parts("big", upload, ["0" * 32])
    with pytest.raises(InvalidParts):
        object_store.finish_parts("big", upload, [etag, etag])
    object_store.finish_parts("big", upload, [etag])
    assert object_store.get("big") == b"a"


def test_aborted_parts_are_deleted(object_store: ObjectStore) -> None:
    upload = object_store.begin_parts("big")
    etag = object_store.put_part("big", upload, 1, b"a")
    object_store.abort_parts("big", upload)
    object_store.abort_parts("big", upload)
    with pytest.raises(ObjectMissing):
        object_store.finish_parts("big", upload, [etag])
    with pytest.raises(ObjectMissing):
        object_store.put_part("big", upload, 2, b"b")
    assert object_store.stat("big") is None


def test_a_presigned_url_allows_uploading_only_its_part(object_store: ObjectStore) -> None:
    upload = object_store.begin_parts("big")
    url = object_store.presigned_part("big", upload, 1, 60)
    with httpx.Client(trust_env=False) as client:
        response = client.put(url, content=b"from a client")
        assert client.put(url.replace("partNumber=1", "partNumber=2"), content=b"x").status_code == 403
        assert client.get(url).status_code == 403
    object_store.finish_parts("big", upload, [response.headers["etag"].strip('"')])
    assert object_store.get("big") == b"from a client"


def test_presigned_urls_use_the_public_endpoint(store_settings: StoreSettings) -> None:
    changes = {"store_public_endpoint": "media.example.com", "store_public_secure": True}
    store = ObjectStore(store_settings.model_copy(update=changes))
    url = store.presigned_part("big", "upload", 1, 60)
    assert url.startswith(f"https://media.example.com/{store_settings.store_bucket}/big?")


def test_a_missing_bucket_is_created(store_server: StoreServer) -> None:
    bucket = store_server.new_bucket().store_bucket + "-not-yet"
    store = ObjectStore(store_server.settings.model_copy(update={"store_bucket": bucket}))
    assert list(store.list("")) == []
    with pytest.raises(ObjectMissing):
        store.get("a")
    assert store.put_new("a", b"1")
    store.check()


def test_wrong_credentials_are_reported_as_refused_by_the_store(store_settings: StoreSettings) -> None:
    store = ObjectStore(store_settings.model_copy(update={"store_access_key": "nobody"}))
    for call in (lambda: store.get("a"), lambda: store.put("a", b""), lambda: store.put_new("a", b""), store.check):
        with pytest.raises(StoreUnavailable):
            call()


def test_an_unavailable_store_is_reported_and_used_again_later(start_store: StartStore) -> None:
    server = start_store()
    store = ObjectStore(server.new_bucket(store_tries=2))
    store.put("a", b"kept")
    server.process.kill()
    for call in (lambda: store.get("a"), lambda: list(store.list("")), lambda: store.put_new("b", b"")):
        with pytest.raises(StoreUnavailable, match="cannot be reached") as caught:
            call()
        assert str(server.process.port) not in caught.value.message
    server.start_again()
    assert store.get("a") == b"kept"
    assert store.put_new("b", b"")


def test_a_full_store_refuses_writes_and_can_still_be_read(start_store: StartStore) -> None:
    server = start_store("-volume.max=3", "-master.volumeSizeLimitMB=1", "-filer.maxMB=1")
    store = ObjectStore(server.new_bucket(store_tries=2))
    store.put("a", b"kept")

    def fill() -> None:
        for number in range(64):
            store.put(f"filler/{number}", bytes(MIB))

    with pytest.raises(StoreUnavailable):
        fill()
    assert store.get("a") == b"kept"


@pytest.mark.parametrize("status", [507, 500])
def test_a_full_remote_store_is_reported(store_settings: StoreSettings, status: int) -> None:
    with answering(status, "XMinioStorageFull") as endpoint:
        store = ObjectStore(store_settings.model_copy(update={"store_endpoint": endpoint}))
        for call in (lambda: store.put("a", b""), lambda: store.put_new("a", b""), lambda: store.begin_parts("a")):
            with pytest.raises(StoreFull):
                call()


def test_writes_into_the_disk_reserve_are_refused_and_everything_else_works(
    store_settings: StoreSettings, tmp_path: Path
) -> None:
    ObjectStore(store_settings).put("kept", b"bytes")
    reserve = {"store_folder": tmp_path, "store_reserve_bytes": 2**60}
    store = ObjectStore(store_settings.model_copy(update=reserve))
    assert store.is_full()
    for call in (
        lambda: store.put("a", b""),
        lambda: store.put_new("a", b""),
        lambda: store.begin_parts("a"),
        lambda: store.presigned_part("a", "upload", 1, 60),
    ):
        with pytest.raises(StoreFull):
            call()
    assert store.get("kept") == b"bytes"
    assert [each.key for each in store.list("")] == ["kept"]
    store.put("expired", b"{}", may_use_reserve=True)
    store.delete("kept")
    assert store.stat("kept") is None


def test_a_write_that_fails_despite_free_space_leaves_a_marker(store_settings: StoreSettings, tmp_path: Path) -> None:
    with answering(500, "InternalError") as endpoint:
        local = {"store_endpoint": endpoint, "store_tries": 1, "store_folder": tmp_path, "store_reserve_bytes": 0}
        store = ObjectStore(store_settings.model_copy(update=local))
        with pytest.raises(StoreUnavailable):
            store.get("a")
        assert not failure_marker(tmp_path).exists()
        with pytest.raises(StoreUnavailable):
            store.put("a", b"")
        assert failure_marker(tmp_path).exists()


def test_transient_errors_are_retried(store_settings: StoreSettings) -> None:
    with answering(503, "SlowDown") as endpoint:
        store = ObjectStore(store_settings.model_copy(update={"store_endpoint": endpoint, "store_tries": 3}))
        with pytest.raises(StoreUnavailable):
            store.put("a", b"")
        assert Refusal.heard == 3


def test_errors_can_be_pickled() -> None:
    for error in (StoreUnavailable("down"), StoreFull(), ObjectMissing("key")):
        copy = pickle.loads(pickle.dumps(error))
        assert (type(copy), str(copy)) == (type(error), str(error))


def test_stores_keep_their_data_when_they_move_to_other_ports(start_store: StartStore, tmp_path: Path) -> None:
    first = start_store()
    bucket = first.new_bucket()
    ObjectStore(bucket).put("a", b"kept")
    first.process.stop(20)
    second = start_store()
    assert second.settings.store_endpoint != first.settings.store_endpoint
    moved = second.settings.model_copy(update={"store_bucket": bucket.store_bucket})
    assert ObjectStore(moved).get("a") == b"kept"
