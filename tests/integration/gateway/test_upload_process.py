"""Uploads to a separate gateway process: its memory, and what is left after it is killed."""

import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx
import psutil
import pytest

from services.gateway.http.keys import KeyStore
from services.operations.local.process import LocalProcess, ProcessSpec, serves_metrics
from services.shared.media.library import MediaLibrary
from services.shared.media.settings import MediaSettings
from services.shared.media.sweeping import SweepCounts, sweep
from services.shared.storage.client import ObjectStore
from services.shared.storage.settings import StoreSettings
from tests.servers import READY_SECONDS, start_process, store_environment

MIB = 2**20
MEGABYTES = 160
MAX_GROWTH = 64 * MIB


@pytest.fixture
def gateway(tmp_path: Path, store_settings: StoreSettings) -> Iterator[LocalProcess]:
    """A gateway process with an object store and no model services."""
    arguments, environment = ["--home", str(tmp_path)], store_environment(store_settings)
    spec = ProcessSpec("gateway", "services.gateway", arguments, serves_metrics, environment=environment)
    with ExitStack() as cleanup:
        yield start_process(spec, 0, tmp_path / "run", cleanup)


@pytest.fixture
def client(gateway: LocalProcess, tmp_path: Path) -> Iterator[httpx.Client]:
    headers = {"Authorization": f"Bearer {KeyStore(tmp_path).create('acme')[1]}"}
    url = f"http://{gateway.address}"
    with httpx.Client(base_url=url, headers=headers, timeout=300, trust_env=False) as client:
        yield client


def long_wav(size: int, before: Callable[[int], None] = lambda sent: None) -> Iterator[bytes]:
    """A form with a WAV file of `size` bytes, generated while it is sent."""
    yield b'--b\r\nContent-Disposition: form-data; name="file"; filename="long.wav"\r\n\r\n'
    form = struct.pack("<4sIHHIIHH", b"fmt ", 16, 1, 1, 16_000, 32_000, 2, 16)
    yield b"RIFF" + struct.pack("<I", size - 8) + b"WAVE" + form + b"data" + struct.pack("<I", size - 44)
    block = bytes(range(64)) * (MIB // 64)
    sent = 44
    while sent < size:
        before(sent)
        yield block[: size - sent]
        sent += min(MIB, size - sent)
    yield b"\r\n--b--\r\n"


def send(client: httpx.Client, body: Iterator[bytes]) -> httpx.Response:
    return client.post("/v1/media", content=body, headers={"content-type": "multipart/form-data; boundary=b"})


def peak(process: LocalProcess) -> int:
    """Peak memory of the process in bytes."""
    lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


def test_a_large_upload_takes_little_gateway_memory(gateway: LocalProcess, client: httpx.Client) -> None:
    assert send(client, long_wav(1 * MIB)).status_code == 200
    before = psutil.Process(gateway.pid).memory_info().rss
    response = send(client, long_wav(MEGABYTES * MIB))
    assert response.status_code == 200, response.text
    assert response.json()["bytes"] == MEGABYTES * MIB
    print(f"the gateway grew by {(peak(gateway) - before) / MIB:.1f} MiB")
    assert peak(gateway) - before < MAX_GROWTH


def test_the_sweep_removes_uploads_left_by_a_killed_gateway(
    gateway: LocalProcess, client: httpx.Client, store_settings: StoreSettings
) -> None:
    store, settings = ObjectStore(store_settings), MediaSettings()
    killed = threading.Event()

    def kill_midway(sent: int) -> None:
        if sent > 12 * MIB and not killed.is_set() and list(store.list("media/acme/uploads/")):
            gateway.kill()
            killed.set()

    with pytest.raises(httpx.HTTPError):
        send(client, long_wav(400 * MIB, kill_midway))
    assert killed.is_set()
    gateway.start()
    gateway.wait_ready(READY_SECONDS)
    assert client.get("/v1/media").json()["data"] == []
    again = send(client, long_wav(20 * MIB))
    assert again.status_code == 200
    later = MediaLibrary(store, settings, lambda: again.json()["created_at"] + settings.upload_seconds + 7_200)
    assert sweep(later) == SweepCounts(0, 1)
    assert len(list(store.list("media/acme/"))) == 2
    assert client.get(f"/v1/media/{again.json()['id']}").status_code == 200
