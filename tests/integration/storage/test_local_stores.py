"""The stores of a local stack, as processes."""

from contextlib import ExitStack
from pathlib import Path

import pytest
import redis

from services.operations.local import stores
from services.shared.storage.client import ObjectStore
from services.shared.storage.store_errors import StoreFull
from tests.servers import READY_SECONDS, StartRedis, StartStore, start_process


def test_redis_requires_its_password_and_keeps_its_data_after_a_crash(start_redis: StartRedis) -> None:
    server = start_redis()
    with redis.Redis.from_url(server.url) as client:
        client.set("a", "kept")
        client.config_set("appendfsync", "always")
        client.set("b", "kept, too")
    with redis.Redis(port=server.process.port) as nobody, pytest.raises(redis.AuthenticationError):
        nobody.get("a")
    server.process.kill()
    server.start_again()
    with redis.Redis.from_url(server.url) as client:
        assert (client.get("a"), client.get("b")) == (b"kept", b"kept, too")


def test_the_object_store_keeps_its_data_after_a_crash(start_store: StartStore) -> None:
    server = start_store()
    store = ObjectStore(server.new_bucket())
    for number in range(20):
        store.put(f"a/{number:02}", b"%d" % number)
    server.process.kill()
    server.start_again()
    assert [store.get(each.key) for each in store.list("a/")] == [b"%d" % number for number in range(20)]


def test_store_credentials_are_readable_by_their_owner_only(
    start_store: StartStore, start_redis: StartRedis, tmp_path: Path
) -> None:
    store, server = start_store(), start_redis()
    secrets = [tmp_path / name for name in ("store/secret-key", "redis/password", "redis/valkey.conf")]
    assert [path.stat().st_mode & 0o777 for path in secrets] == [0o600] * 3
    for process in (store.process, server.process):
        command = Path(f"/proc/{process.pid}/cmdline").read_text()
        assert not any(path.read_text() in command for path in secrets[:2])


def test_an_object_store_with_a_full_disk_starts_and_can_be_read(start_store: StartStore, tmp_path: Path) -> None:
    server = start_store()
    ObjectStore(server.settings).put("kept", b"bytes")
    server.process.stop(READY_SECONDS)
    with ExitStack() as cleanup:
        spec, port, reach = stores.object_store(tmp_path / "store", reserve_bytes=2**60)
        start_process(spec, port, tmp_path, cleanup)
        store = ObjectStore(stores.store_settings(reach))
        assert store.get("kept") == b"bytes"
        with pytest.raises(StoreFull):
            store.put("more", b"bytes")


def test_a_stopped_object_store_leaves_no_sockets_behind(start_store: StartStore) -> None:
    before = set(Path("/tmp").glob("seaweedfs-*.sock"))  # of other stores, which may be gone
    process = start_store().process
    assert any(path.exists() for path in process.spec.cleanup_paths)
    process.kill()
    process.stop(0)
    ports = {each.rpartition("=")[2] for each in process.spec.arguments if ".port" in each} - {"0"}
    assert not {path for port in ports for path in Path("/tmp").glob(f"seaweedfs-*-{port}.sock")} - before
