"""Another user of the machine has no access to the stores of a local stack.

Run by root, as in CI, the intruder is the user nobody; otherwise it is the same user without credentials, and file
permissions are checked by mode.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest

from services.operations.local.certificates import AUTHORITY, CERTIFICATE, KEY
from services.shared.private_files import FolderNotPrivate, make_private
from tests.intruder import NOBODY, try_grpc, try_http
from tests.job_stack import JobStack, speech

IS_ROOT = os.geteuid() == 0
BUCKET = "lyra"


def intrude(**given: Any) -> list[str]:
    """Runs the intruder; returns everything that succeeded."""
    command = [sys.executable, "-m", "tests.intruder"]
    result = subprocess.run(command, input=json.dumps(given), capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr
    found: list[str] = json.loads(result.stdout)
    return found


def processes(jobs: JobStack) -> list[psutil.Process]:
    found = [psutil.Process(process.pid) for process in jobs.stack.processes.values()]
    return [*found, *(child for process in found for child in process.children(recursive=True))]


def listening(jobs: JobStack) -> list[int]:
    """Every port of the object store."""
    store = psutil.Process(jobs.stack.processes["object_store"].pid)
    return [each.laddr.port for each in store.net_connections("inet") if each.status == psutil.CONN_LISTEN]


def sockets(jobs: JobStack) -> list[str]:
    """Every socket of the object store in the file system."""
    store = psutil.Process(jobs.stack.processes["object_store"].pid)
    return sorted({str(each.laddr) for each in store.net_connections("unix") if str(each.laddr).startswith("/")})


def test_another_user_can_read_and_change_nothing(jobs: JobStack) -> None:
    job = jobs.submit(speech(2))
    assert jobs.ended(job)["state"] == "succeeded"
    home, folder = jobs.stack.home, jobs.stack.home / "store"
    key = next(jobs.store.list("media/")).key
    ports = listening(jobs)
    assert len(ports) == 10
    assert len(sockets(jobs)) == 7
    everything = [str(path.relative_to(home)) for path in home.rglob("*")]
    assert {"run/stack.json", "store/secret-key", "redis/password", "logs/gateway.log"} <= set(everything)
    got = intrude(
        folder=str(home),
        files=everything,
        ports=ports,
        sockets=sockets(jobs),
        pids=[process.pid for process in processes(jobs)],
        redis_port=jobs.stack.processes["redis"].port,
        bucket=BUCKET,
        key=key,
        authority=(folder / AUTHORITY).read_text(),
    )
    assert got == []
    assert home.stat().st_mode & 0o777 == 0o700
    assert jobs.store.get(key)
    assert jobs.redis.ping()


def test_with_the_stores_credentials_the_same_attempts_succeed(jobs: JobStack) -> None:
    folder = jobs.stack.home / "store"
    certificate = (str(folder / CERTIFICATE), str(folder / KEY))
    bucket, key = "of-nobody", "missing"  # nothing that other tests need is deleted
    http: list[str] = []
    calls: list[str] = []
    for port in listening(jobs):
        http += try_http(port, bucket, key, certificate)
        calls += try_grpc(port, (folder / AUTHORITY).read_text(), certificate)
    done = " ".join(http)
    assert all(path in done for path in ("/dir/assign", "/dir/status", "/buckets/?pretty=y", "/ui/index.html"))
    assert "PUT https" in done
    parts = {call.split(".")[0] for call in calls}
    assert parts >= {"/filer_pb", "/master_pb", "/volume_server_pb"}


@pytest.mark.skipif(not IS_ROOT, reason="only root can become another user")
def test_the_intruder_finds_what_is_open(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    (tmp_path / "open.txt").write_text("for all")
    (tmp_path / "open.txt").chmod(0o666)
    own = subprocess.Popen(["sleep", "60"], user=NOBODY, group=NOBODY, extra_groups=[])
    try:
        got = intrude(
            folder=str(tmp_path),
            files=["open.txt"],
            ports=[],
            sockets=[],
            pids=[own.pid],
            redis_port=0,
            bucket="",
            key="",
            authority="",
        )
    finally:
        own.kill()
        own.wait()
    assert {"read open.txt", "write open.txt", "list .", f"read /proc/{own.pid}/environ"} <= set(got)


def test_command_lines_contain_no_secrets(jobs: JobStack) -> None:
    home = jobs.stack.home
    secrets = [(home / name).read_text().strip() for name in ("store/secret-key", "redis/password")]
    secrets.append(jobs.stack.key)
    for process in processes(jobs):
        command = " ".join(process.cmdline())
        assert not [secret for secret in secrets if secret in command], process


def test_permissions_of_an_existing_home_are_tightened(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir(mode=0o755)
    home.chmod(0o755)
    make_private(home)
    assert home.stat().st_mode & 0o777 == 0o700


def test_a_shared_home_is_refused_and_left_unchanged(tmp_path: Path) -> None:
    tmp_path.chmod(0o1777)
    with pytest.raises(FolderNotPrivate, match="LYRA_HOME"):
        make_private(tmp_path)
    assert tmp_path.stat().st_mode & 0o7777 == 0o1777
