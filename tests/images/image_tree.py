"""The files of an image, laid out from its Dockerfile and requirements without a container engine.

Packages are linked from the environment that runs the tests, which has the locked versions; only listed packages can be
imported. The code is installed as in the Dockerfile: copied, built into a wheel, unpacked.
"""

import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Mapping
from importlib.metadata import distribution
from pathlib import Path
from shutil import copy, copytree, ignore_patterns
from typing import Any

from packaging.requirements import Requirement

from tests.images.dockerfiles import DOCKERFILES, Stage, stages
from tests.paths import ROOT

REQUIREMENTS = ROOT / "requirements"
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())


def pins(path: Path) -> list[Requirement]:
    """Pinned requirements in a file, without hashes."""
    lines = (line.rstrip(" \\") for line in path.read_text().splitlines())
    return [Requirement(line) for line in lines if line and not line.startswith(("#", " "))]


def applicable_pins(path: Path) -> list[Requirement]:
    """Those of `pins` whose markers apply to this machine."""
    return [pin for pin in pins(path) if pin.marker is None or pin.marker.evaluate()]


class ImageTree:
    """An image's `/opt` below a folder.

    Args:
        folder: New and empty.
        family: "services" or "models".
        target: Build stage of the image.
    """

    def __init__(self, folder: Path, family: str, target: str) -> None:
        self.folder = folder
        self.stage: Stage = stages(DOCKERFILES[family])[target]
        self._install_code(stages(DOCKERFILES[family])["build"])
        for pin in applicable_pins(REQUIREMENTS / f"{family}.txt"):
            _link(pin.name, folder / "opt" / "packages")
        if family == "models":
            _link("torch", folder / "opt" / "torch")

    def environment(self, **more: str) -> dict[str, str]:
        """Environment of a container with this image, but listening on loopback only."""
        home = self.folder / "home"
        home.mkdir(exist_ok=True)
        declared = self.stage.environment()
        paths = {"PYTHONPATH": declared["PYTHONPATH"].replace("/opt/", f"{self.folder}/opt/"), "PATH": "/usr/bin:/bin"}
        places = {"HOME": str(home), "LYRA_HOME": str(home), "LYRA_HOST": "127.0.0.1"}
        return {**declared, **paths, **places, **more}

    def command(self, *words: str) -> list[str]:
        """`python ...` as in the image, without this environment's site-packages."""
        return [str(Path(sys.base_prefix) / "bin" / "python3"), "-S", *words]

    def run(self, *words: str, environment: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
        """Runs `python ...` to completion."""
        variables = environment or self.environment()
        return subprocess.run(self.command(*words), env=dict(variables), capture_output=True, text=True, check=False)

    def _install_code(self, build: Stage) -> None:
        source, wheels = self.folder / "src", self.folder / "wheels"
        for paths, target in build.copied():
            for path in paths:
                _copy(ROOT / path, source / target)
        command = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(wheels)]
        subprocess.run(command, cwd=source, check=True, capture_output=True)
        (wheel,) = wheels.glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(self.folder / "opt" / "lyra")


def _copy(path: Path, folder: Path) -> None:
    """COPY into a folder: the content of a folder, or a file."""
    if path.is_dir():
        # Nano's trained parts are large, and no image test needs them.
        copytree(path, folder, ignore=ignore_patterns("__pycache__", "nano_parts"), dirs_exist_ok=True)
    else:
        folder.mkdir(parents=True, exist_ok=True)
        copy(path, folder)


def _link(name: str, folder: Path) -> None:
    """Links an installed package's files into `folder`; whole folders if no other package shares them."""
    found = distribution(name)
    tops = {
        Path(file.parts[0]) for file in found.files or () if ".." not in file.parts and "__pycache__" not in file.parts
    }
    for top in tops:
        _link_tree(Path(str(found.locate_file(top))), folder / top)


def _link_tree(path: Path, target: Path) -> None:
    if path.is_dir() and not target.is_symlink() and not _is_whole(path):
        target.mkdir(parents=True, exist_ok=True)
        for inner in path.iterdir():
            _link_tree(inner, target / inner.name)
    elif not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        target.symlink_to(path)


def _is_whole(path: Path) -> bool:
    """Whether the folder belongs to one package only: namespace packages have no `__init__.py`."""
    return (path / "__init__.py").exists() or path.suffix in (".dist-info", ".libs")
