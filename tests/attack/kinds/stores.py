"""Stores of the local stack, as seen by another user of this machine: every port, every file."""

import os
import socket
import stat
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import httpx
import psutil

from services.operations.local.stack import STORES
from tests.attack.registry import Outcome, Plan, attack
from tests.attack.target import Target

_PATHS = (
    *(
        "/",
        "/?pretty=y",
        "/buckets/",
        "/buckets/?pretty=y",
        "/lyra",
        "/lyra/?list-type=2",
        "/dir/status",
        "/cluster/status",
    ),
    *(
        "/dir/assign",
        "/vol/status",
        "/status",
        "/ui/index.html",
        "/stats/disk",
        "/debug/pprof/",
        "/metrics",
        "/.system/",
    ),
)
_SHOWS = ("media/", "jobs/", "Topology", "EntryName", "fullPath", "FullPath", '"fid"', "Volumes", "<Contents>")


@attack("every port of the stores, without credentials")
def ports(target: Target, plan: Plan) -> Outcome:
    outcome = Outcome("nothing is shown, nothing is accepted")
    for port in _ports(target):
        for path in _PATHS:
            answer = _ask(port, path)
            outcome.add(answer, ("refused", "closed"), f"port {port} {path}")
        for method in ("PUT", "POST", "DELETE"):
            answer = _ask(port, "/buckets/lyra/planted.txt", method)
            outcome.add(answer, ("refused", "closed"), f"port {port} {method}")
        outcome.add(_redis(port), ("refused", "closed"), f"port {port} as Redis")
    return outcome


@attack("files of the home, read as another user")
def files(target: Target, plan: Plan) -> Outcome:
    outcome = Outcome("no file can be read by others")
    for path in _reachable(target.home):
        outcome.add("readable", (), str(path.relative_to(target.home)))
    if not outcome.tried:
        outcome.add("closed", ("closed",))
    return outcome


def _ports(target: Target) -> Iterator[int]:
    """Ports that the stores listen on."""
    for name in STORES:
        process = psutil.Process(target.stack.processes[name].pid)
        for each in (process, *process.children(recursive=True)):
            for connection in each.net_connections(kind="tcp"):
                if connection.status == psutil.CONN_LISTEN:
                    yield connection.laddr.port


def _ask(port: int, path: str, method: str = "GET") -> str:
    """The result: refused, shown, accepted, or closed if the port does not speak HTTP."""
    try:
        response = httpx.request(method, f"http://127.0.0.1:{port}{path}", content=b"x", timeout=5, trust_env=False)
    except httpx.HTTPError:
        return "closed"
    if not response.is_success:
        return "refused"
    if method == "GET":
        return "shown" if any(word in response.text for word in _SHOWS) else "refused"
    return "taken"


def _redis(port: int) -> str:
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), 2.0) as connection:
        connection.sendall(b"KEYS *\r\n")
        answer = connection.recv(1000)
        return "shown" if answer.startswith(b"*") else "refused"
    return "closed"


def _reachable(folder: Path) -> Iterator[Path]:
    """Files under a folder that others may read and reach."""
    if not folder.stat().st_mode & stat.S_IXOTH:
        return
    for entry in os.scandir(folder):
        mode = entry.stat(follow_symlinks=False).st_mode
        if stat.S_ISDIR(mode):
            yield from _reachable(Path(entry.path))
        elif stat.S_ISREG(mode) and mode & stat.S_IROTH:
            yield Path(entry.path)
