"""Debian packages built by the test, and package folders that are either complete or missing."""

import shutil
import subprocess
from pathlib import Path

import pytest

from model_core.checkpoints.packages import DebianPackage, file_sha256
from model_core.data.sources.packages import package_folder
from model_core.errors import WeightsMissing

pytestmark = pytest.mark.skipif(shutil.which("dpkg-deb") is None, reason="dpkg-deb is not installed")

CONTROL = (
    "Package: some-books\nVersion: 1:2.0-1\nArchitecture: all\nMaintainer: nobody <n@example.org>\nDescription: x\n"
)


class MadeHere(DebianPackage):
    """A package whose archive is in the working directory."""

    def _download(self, folder: Path) -> Path:
        return Path(shutil.copy("made.deb", folder / "some-books_1%3a2.0-1_all.deb"))


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> MadeHere:
    tree = tmp_path / "tree"
    (tree / "DEBIAN").mkdir(parents=True)
    (tree / "DEBIAN" / "control").write_text(CONTROL)
    for name in ("usr/share/books/one.txt", "usr/share/books/deep/two.txt", "usr/bin/reader"):
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).write_text(f"this is {name}")
    subprocess.run(["dpkg-deb", "--build", str(tree), str(tmp_path / "made.deb")], check=True, capture_output=True)
    monkeypatch.chdir(tmp_path)
    return MadeHere(
        name="some-books", version="1:2.0-1", sha256=file_sha256(Path("made.deb")), licence="none",
        members=("usr/share/books/",),
    )  # fmt: skip


def test_only_the_named_members_are_unpacked(package: MadeHere, tmp_path: Path) -> None:
    folder = package_folder(package, tmp_path / "packages")
    files = sorted(str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file())
    assert files == ["usr/share/books/deep/two.txt", "usr/share/books/one.txt"]
    assert (folder / files[0]).read_text() == f"this is {files[0]}"


def test_an_existing_folder_is_not_fetched_again(package: MadeHere, tmp_path: Path) -> None:
    folder = package_folder(package, tmp_path / "packages")
    Path("made.deb").unlink()
    assert package_folder(package, tmp_path / "packages") == folder


def test_a_failed_fetch_leaves_no_folder(package: MadeHere, tmp_path: Path) -> None:
    with Path("made.deb").open("ab") as file:
        file.write(b"and more")
    with pytest.raises(WeightsMissing, match="SHA-256"):
        package_folder(package, tmp_path / "packages")
    assert list((tmp_path / "packages").iterdir()) == []


def test_a_machine_without_apt_gets_a_clear_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    absent = DebianPackage(name="some-books", version="1", sha256="", licence="", members=())
    with pytest.raises(WeightsMissing, match=r"some-books=1 .*apt-get"):
        package_folder(absent, tmp_path / "packages")
