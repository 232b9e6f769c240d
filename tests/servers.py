"""A real object store and a real Redis for tests, on free ports, as processes that a test may kill."""

import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from services.operations.local import stores
from services.operations.local.process import LocalProcess, ProcessSpec
from services.shared.storage.client import ObjectStore
from services.shared.storage.settings import StoreSettings

# Each bucket uses its own volumes, and by default there are only as many as would fill the disk.
_MANY_BUCKETS = ("-volume.max=10000", "-master.volumeSizeLimitMB=128")
READY_SECONDS = 120.0  # for a machine that is busy with other things


@dataclass(frozen=True, slots=True)
class StoreServer:
    """A SeaweedFS and its settings; `process.kill()` simulates a crash."""

    process: LocalProcess
    settings: StoreSettings

    def start_again(self) -> None:
        """Returns when it takes requests."""
        self.process.start()
        self.process.wait_ready(READY_SECONDS)

    def new_bucket(self, **changes: object) -> StoreSettings:
        """Settings of a bucket that no other test uses; `changes` override settings."""
        bucket = f"test-{secrets.token_hex(6)}"
        settings = self.settings.model_copy(update={"store_bucket": bucket, **changes})
        ObjectStore(settings).check()
        return settings


@dataclass(frozen=True, slots=True)
class RedisServer:
    """A Valkey and its URL."""

    process: LocalProcess
    url: str

    def start_again(self) -> None:
        """Returns when it takes requests."""
        self.process.start()
        self.process.wait_ready(READY_SECONDS)


StartStore = Callable[..., StoreServer]
StartRedis = Callable[..., RedisServer]


def start_process(spec: ProcessSpec, port: int, folder: Path, cleanup: ExitStack) -> LocalProcess:
    """Starts `spec`, to be stopped by `cleanup`; returns when it takes requests."""
    folder.mkdir(parents=True, exist_ok=True)
    process = LocalProcess(spec, host=stores.HOST, port=port, run_dir=folder, log_dir=folder)
    cleanup.callback(process.stop, 0.0)  # its data are not needed any more
    process.start()
    process.wait_ready(READY_SECONDS)
    return process


def start_store_server(folder: Path, cleanup: ExitStack, options: Sequence[str] = _MANY_BUCKETS) -> StoreServer:
    """A SeaweedFS with its data in `folder`."""
    spec, port, environment = stores.object_store(folder / "store", options)
    return StoreServer(start_process(spec, port, folder, cleanup), stores.store_settings(environment))


def start_redis_server(folder: Path, cleanup: ExitStack, options: Mapping[str, str] | None = None) -> RedisServer:
    """A Valkey with its data in `folder`."""
    spec, port, url = stores.valkey(folder / "redis", options)
    return RedisServer(start_process(spec, port, folder, cleanup), url)


def store_environment(settings: StoreSettings) -> dict[str, str]:
    """Environment variables for another process to use this store."""
    values = settings.model_dump() | {"store_secret_key": settings.store_secret_key.get_secret_value()}
    return {f"LYRA_{name.upper()}": str(value) for name, value in values.items() if value not in (None, "")}


@pytest.fixture(scope="session")
def store_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StoreServer]:
    """One object store for all tests that leave it running; each uses its own bucket."""
    with ExitStack() as cleanup:
        yield start_store_server(tmp_path_factory.mktemp("store"), cleanup)


@pytest.fixture
def store_settings(store_server: StoreServer) -> StoreSettings:
    """Settings of a new bucket."""
    return store_server.new_bucket()


@pytest.fixture
def object_store(store_settings: StoreSettings) -> ObjectStore:
    """An empty bucket."""
    return ObjectStore(store_settings)


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """One Redis for all tests that leave it running; it may contain keys of other tests."""
    with ExitStack() as cleanup:
        yield start_redis_server(tmp_path_factory.mktemp("redis"), cleanup)


@pytest.fixture
def start_store(tmp_path: Path) -> Iterator[StartStore]:
    """Starts an object store for a test that disturbs it: `start_store()`."""
    with ExitStack() as cleanup:
        yield lambda *options: start_store_server(tmp_path, cleanup, options or _MANY_BUCKETS)


@pytest.fixture
def start_redis(tmp_path: Path) -> Iterator[StartRedis]:
    """Starts a Redis for a test that disturbs it: `start_redis()`."""
    with ExitStack() as cleanup:
        yield lambda **options: start_redis_server(tmp_path, cleanup, options)
