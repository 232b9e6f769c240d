"""Behind the system call filter a process can only compute."""

import subprocess
import sys

import pytest

from services.shared.sandbox.zygote import has_filter
from tests.paths import ROOT

pytestmark = pytest.mark.skipif(not has_filter(), reason="this system has no system call filter")

_BEGIN = """
import ctypes, errno, mmap, os, signal, socket, subprocess, sys, threading
from services.shared.sandbox.filter import forbid_system_calls
ours, theirs = socket.socketpair()
libc = ctypes.CDLL(None, use_errno=True)
forbid_system_calls()
try:
    {attempt}
except PermissionError:
    theirs.send(b"refused")
except OSError as error:
    theirs.send(str(error).encode())
else:
    theirs.send(b"done")
os._exit(0 if ours.recv(99) == {expected!r} else 1)
"""


def ends_as(attempt: str, expected: bytes) -> bool:
    code = _BEGIN.format(attempt=attempt, expected=expected)
    return subprocess.run([sys.executable, "-c", code], cwd=ROOT, timeout=60).returncode == 0


@pytest.mark.parametrize(
    "attempt",
    [
        "open('/etc/passwd')",
        "open('/tmp/lyra-written', 'w')",
        "os.listdir('/')",
        "os.stat('/etc/passwd')",
        "socket.socket()",
        "socket.socket(socket.AF_UNIX)",
        "ours.connect('/tmp/none')",
        "os.fork()",
        "os.execv('/bin/true', ['true'])",
        "os.kill(os.getppid(), 0)",
        "os.pidfd_open(os.getppid())",
        "os.memfd_create('x')",
        "os.write(1, b'x')",
        "mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_EXEC)",
        "os.chmod('/tmp', 0o777)",
        "os.setpriority(os.PRIO_PROCESS, 0, 1)",
    ],
)
def test_nothing_outside_the_sandbox_is_reachable(attempt: str) -> None:
    assert ends_as(attempt, b"refused")


@pytest.mark.parametrize(
    "attempt", ["x = bytearray(50_000_000)", "t = threading.Thread(target=len, args=('',)); t.start(); t.join()"]
)
def test_memory_and_threads_are_available(attempt: str) -> None:
    assert ends_as(attempt, b"done")


def test_other_processes_cannot_be_inspected() -> None:
    attempt = "assert libc.ptrace(16, os.getppid(), 0, 0) == -1 and ctypes.get_errno() == errno.EPERM"
    assert ends_as(attempt, b"done")
