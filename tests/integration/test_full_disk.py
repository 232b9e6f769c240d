"""The disk of a whole local stack fills up: it is reported, work waits, and resumes once there is space.

`lyra serve` runs in its own mount namespace and writes everything to a small tmpfs.
"""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from services.operations.local.stores import store_settings
from services.shared.storage.client import ObjectStore
from services.shared.storage.store_errors import StoreUnavailable
from tests.job_stack import speech, until

SIZE_MIB = 320
RESERVE_BYTES = 8 * 2**20
# Root needs only a mount namespace; other users need a user namespace too, if the machine allows it.
UNSHARE = ["unshare", "--mount", "--propagation", "private"]
if os.geteuid() != 0:
    UNSHARE += ["--user", "--map-root-user"]
MOUNT = f'mount -t tmpfs -o size={SIZE_MIB}m,mode=0700 tmpfs "$0" && exec "$@"'

CAN_MOUNT = (
    subprocess.run([*UNSHARE, "mount", "-t", "tmpfs", "tmpfs", "/mnt"], capture_output=True, check=False).returncode
    == 0
)


@dataclass(frozen=True, slots=True)
class SmallDisk:
    """A stack whose disk a test can fill."""

    server: psutil.Process
    disk: Path  # path as seen by this process
    http: httpx.Client

    @contextmanager
    def full(self) -> Iterator[None]:
        """Fills the disk to the last byte."""
        filler = self.disk / "filler"
        with filler.open("wb", buffering=0) as file, suppress(OSError):
            while True:
                file.write(bytes(2**16))
        try:
            yield
        finally:
            filler.unlink()

    def processes(self) -> dict[str, psutil.Process]:
        """Processes of the stack, by module or program."""
        found = {}
        for child in self.server.children():
            command = child.cmdline()
            name = next(
                (
                    word
                    for word in command
                    if word.startswith("services.") and word != "services.operations.local.child"
                ),
                "",
            )
            queues = command[command.index("--queues") + 1] if "--queues" in command else ""
            found[f"{name or Path(command[0]).name} {queues}".strip()] = child
        return found

    def upload(self, sentences: int, first: int) -> httpx.Response:
        return self.http.post("/v1/media", files={"file": ("a.flac", speech(sentences, first=first))})

    def job(self, name: str) -> dict[str, Any]:
        response = self.http.get(f"/v1/jobs/{name}")
        found: dict[str, Any] = response.json()
        return found if response.is_success else {"state": "unknown", "waits_for": ""}


def wait_for(process: subprocess.Popen[bytes], holds: Callable[[], bool]) -> None:
    until(lambda: process.poll() is not None or holds())
    assert process.poll() is None


@pytest.fixture
def small(tmp_path: Path) -> Iterator[SmallDisk]:
    disk, log = tmp_path / "disk", tmp_path / "serve.log"
    disk.mkdir()
    command = [*UNSHARE, "sh", "-c", MOUNT, str(disk), sys.executable, "-m", "cli", "serve", "--preset", "tiny"]
    environment = {**os.environ, "LYRA_HOME": str(disk / "home"), "LYRA_STORE_RESERVE_BYTES": str(RESERVE_BYTES)}
    with log.open("wb") as output:
        process = subprocess.Popen([*command, "--port", "0"], stdout=output, stderr=output, env=environment)
    try:
        inside = Path(f"/proc/{process.pid}/root{disk}")
        state_file = inside / "home" / "run" / "stack.json"
        wait_for(process, state_file.exists)
        state = json.loads(state_file.read_text())
        headers = {"Authorization": f"Bearer {state['key']}"}
        with httpx.Client(base_url=state["url"], headers=headers, timeout=60, trust_env=False) as http:
            yield SmallDisk(psutil.Process(process.pid), inside, http)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)


def unguarded(small: SmallDisk) -> ObjectStore:
    """A client of the stack's object store that ignores the disk reserve."""
    gateway = small.processes()["services.gateway"].environ()
    reach = {name: value for name, value in gateway.items() if name.startswith("LYRA_STORE_")}
    return ObjectStore(store_settings(reach).model_copy(update={"store_folder": None, "store_tries": 1}))


@pytest.mark.skipif(not CAN_MOUNT, reason="this machine lets nobody mount a small disk")
def test_a_full_disk_is_reported_and_work_resumes_once_there_is_space(small: SmallDisk) -> None:
    kept = small.upload(2, first=40)
    assert kept.status_code == 200, kept.text
    before = small.processes()
    before["services.speech_encoder"].suspend()
    job = small.http.post("/v1/jobs", files={"file": ("b.flac", speech(16))}).json()["id"]
    until(lambda: small.job(job)["state"] == "running")
    store = unguarded(small)
    with small.full():
        before["services.speech_encoder"].resume()
        refused = small.upload(2, first=50)
        assert refused.status_code == 507, refused.text
        assert refused.json()["error"]["code"] == "store_full"
        assert refused.headers["retry-after"]
        assert small.http.get(f"/v1/media/{kept.json()['id']}").json() == kept.json()
        assert speech(2, first=40) in [store.get(each.key) for each in store.list("media/")]
        until(lambda: "full" in small.job(job)["waits_for"])
        assert small.job(job)["state"] == "running"
        for number in range(64):  # until every part of its index has failed
            with suppress(StoreUnavailable):
                store.put(f"harm/{number}/object", b"x" * 1000)
    until(lambda: small.upload(2, first=60).status_code == 200)
    until(lambda: small.job(job)["state"] == "succeeded")
    after = small.processes()
    assert {name: process.pid for name, process in after.items() if name != "weed"} == {
        name: process.pid for name, process in before.items() if name != "weed"
    }
    for number in range(64):  # each part of the index can be written
        store.put(f"harm/{number}/object", b"x")
