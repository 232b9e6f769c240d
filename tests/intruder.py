"""`python -m tests.intruder`: another user of this machine, who tries every port, socket and file of a local stack.

Reads a JSON object from stdin (see `main`) and prints a JSON list of everything that succeeded, as text; it is empty if
nothing did. If started by root, it becomes the user nobody once its modules are loaded.
"""

import encodings.idna  # noqa: F401 - what host names need is loaded late, when this process may read nothing any more
import json
import os
import socket
import ssl
import sys
from collections.abc import Iterator
from http import HTTPStatus
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from pathlib import Path
from typing import Any

import grpc

NOBODY = 65534

_SECONDS = 5.0
_METHODS = (
    ("GET", "/"),
    ("GET", "/{bucket}/?list-type=2"),
    ("GET", "/{bucket}/{key}"),
    ("GET", "/buckets/{bucket}/{key}"),
    ("GET", "/buckets/?pretty=y"),
    ("GET", "/dir/assign"),
    ("GET", "/dir/status"),
    ("GET", "/cluster/status"),
    ("GET", "/vol/status"),
    ("GET", "/ui/index.html"),
    ("GET", "/metrics"),
    ("GET", "/debug/pprof/"),
    ("GET", "/api/s3/buckets"),
    ("PUT", "/{bucket}/intruder"),
    ("PUT", "/buckets/{bucket}/intruder"),
    ("POST", "/buckets/{bucket}/intruder"),
    ("POST", "/submit"),
    ("POST", "/?Action=ListUsers&Version=2010-05-08"),
    ("DELETE", "/{bucket}/{key}"),
    ("DELETE", "/buckets/{bucket}/{key}"),
    ("DELETE", "/buckets/{bucket}?recursive=true"),
)
_SLASH = b"\n\x01/"  # directory: "/"
_CALLS = (
    ("/filer_pb.SeaweedFiler/ListEntries", _SLASH),
    ("/filer_pb.SeaweedFiler/LookupDirectoryEntry", _SLASH),
    ("/filer_pb.SeaweedFiler/DeleteEntry", _SLASH),
    ("/filer_pb.SeaweedFiler/GetFilerConfiguration", b""),
    ("/master_pb.Seaweed/VolumeList", b""),
    ("/master_pb.Seaweed/Assign", b""),
    ("/master_pb.Seaweed/GetMasterConfiguration", b""),
    ("/volume_server_pb.VolumeServer/VolumeServerStatus", b""),
    ("/volume_server_pb.VolumeServer/DeleteCollection", b"\n\x04lyra"),
    ("/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo", b":\x00"),
)
_COMMANDS = (
    "PING",
    "KEYS *",
    "GET a",
    "SET a b",
    "FLUSHALL",
    "CONFIG GET *",
    "CONFIG SET dir /tmp",
    "DEBUG SLEEP 0",
    "MODULE LIST",
    "REPLICAOF 127.0.0.1 1",
    "SHUTDOWN NOSAVE",
)


def try_http(port: int, bucket: str, key: str, certificate: tuple[str, str] | None = None) -> Iterator[str]:
    """Requests that succeeded, in clear text and over TLS; with the certificate if one is given."""
    trusting = ssl._create_unverified_context()
    if certificate:
        trusting.load_cert_chain(*certificate)
    for scheme in ("http", "https"):
        for method, template in _METHODS:
            path = template.format(bucket=bucket, key=key)
            client = (
                HTTPSConnection("127.0.0.1", port, timeout=_SECONDS, context=trusting)
                if scheme == "https"
                else HTTPConnection("127.0.0.1", port, timeout=_SECONDS)
            )
            try:
                client.request(method, path, b"x" if method in ("PUT", "POST") else None)
                status = client.getresponse().status
            except (OSError, HTTPException):
                continue
            finally:
                client.close()
            if status < HTTPStatus.BAD_REQUEST:
                yield f"{method} {scheme}://127.0.0.1:{port}{path}: {status}"


def try_grpc(port: int, authority: str, certificate: tuple[str, str] | None = None) -> Iterator[str]:
    """Calls that were answered, or refused by the method itself, which means that authentication was passed.

    `authority` is the text of the certificate that the server's is signed by: knowing it should not help.
    """
    key, chain = (Path(certificate[1]).read_bytes(), Path(certificate[0]).read_bytes()) if certificate else (None, None)
    for credentials in (None, grpc.ssl_channel_credentials(authority.encode() or None, key, chain)):
        where = f"127.0.0.1:{port}"
        options = (("grpc.enable_http_proxy", 0), ("grpc.use_local_subchannel_pool", 1))
        channel = (
            grpc.secure_channel(where, credentials, options) if credentials else grpc.insecure_channel(where, options)
        )
        with channel:
            for method, request in _CALLS:
                try:
                    list(channel.stream_stream(method, bytes, bytes)(iter([request]), timeout=_SECONDS))
                except grpc.RpcError as error:
                    if error.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED):
                        continue  # the connection was not accepted
                    if error.code() is grpc.StatusCode.UNIMPLEMENTED:
                        continue  # a method of another port; those of this port show whether we get in
                yield f"{method} at {where}"


def try_redis(port: int) -> Iterator[str]:
    """Commands that were not refused for lack of a password."""
    for command in _COMMANDS:
        with socket.create_connection(("127.0.0.1", port), _SECONDS) as client:
            client.sendall(f"{command}\r\n".encode())
            answer = client.recv(4096)
        if not answer.startswith((b"-NOAUTH", b"-ERR unknown command")):
            yield f"{command}: {answer!r}"


def try_sockets(paths: list[str]) -> Iterator[str]:
    """Unix sockets that accepted a connection."""
    for path in paths:
        with socket.socket(socket.AF_UNIX) as client:
            try:
                client.connect(path)
            except PermissionError:
                continue
            yield f"connect to {path}"


def try_files(names: list[str]) -> Iterator[str]:
    """Files below the working directory that this process can stat, read or write."""
    for name in ("", *names):
        path = Path(name)
        for verb, attempt in (
            ("list", lambda path=path: list(path.iterdir())),
            ("read", lambda path=path: path.open("rb").close()),
            ("write", lambda path=path: path.open("ab").close()),
            ("delete", lambda path=path: path.unlink()),
        ):
            try:
                attempt()
            except (PermissionError, IsADirectoryError, NotADirectoryError, FileNotFoundError):
                continue
            yield f"{verb} {path}"


def try_processes(pids: list[int]) -> Iterator[str]:
    """Readable parts of processes that may hold secrets: environment, open files, working directory and memory."""
    for pid in pids:
        for name in ("environ", "mem", "fd", "cwd"):
            path = Path(f"/proc/{pid}/{name}")
            try:
                list(path.iterdir()) if name in ("fd", "cwd") else path.open("rb").close()
            except PermissionError:
                continue
            yield f"read {path}"


def main() -> None:
    """Tries `ports` (HTTP, gRPC), `redis_port`, `sockets`, `pids`, and `files`, which are names below `folder`."""
    given: dict[str, Any] = json.load(sys.stdin)
    list(try_grpc(9, ""))  # triggers lazy imports, while this process may still read them
    os.chdir(given["folder"])  # enter it first: only permissions of the folder itself should matter, not those above it
    if os.geteuid() == 0:
        os.setgroups([])
        os.setgid(NOBODY)
        os.setuid(NOBODY)
    got: list[str] = []
    if os.geteuid() == NOBODY:
        got += [*try_files(given["files"]), *try_processes(given["pids"]), *try_sockets(given["sockets"])]
    for port in given["ports"]:
        got += [*try_http(port, given["bucket"], given["key"]), *try_grpc(port, given["authority"])]
    if port := given["redis_port"]:
        got += try_redis(port)
    json.dump(got, sys.stdout)


if __name__ == "__main__":
    main()
