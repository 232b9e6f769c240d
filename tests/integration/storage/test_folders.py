"""Weights folders from a real S3 server to disk, as an init container of the chart downloads them."""

import hashlib
from pathlib import Path

import pytest

from services.shared import telemetry
from services.shared.storage import folders
from services.shared.storage.client import ObjectStore
from services.shared.storage.folders import FolderCorrupt, fetch, read_sums, verify
from services.shared.storage.settings import StoreSettings
from tests.servers import store_environment

FILES = {"config.json": b"{}", "speech_lora/adapter.bin": bytes(range(256)) * 40_000, "empty": b""}


@pytest.fixture
def quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keeps the logging configuration of this process."""
    monkeypatch.setattr(telemetry, "configure_logging", lambda *arguments: None)


def put(store: ObjectStore, folder: str, files: dict[str, bytes], **wrong: str) -> None:
    """Uploads a folder like `lyra cluster weights sync`: the checksums last."""
    for name, data in files.items():
        store.put(f"{folder}/{name}", data, "application/octet-stream")
    sums = {name: hashlib.sha256(data).hexdigest() for name, data in files.items()} | wrong
    store.put(f"{folder}/SHA256SUMS", "".join(f"{value}  {name}\n" for name, value in sums.items()).encode())


def there(home: Path) -> dict[str, bytes]:
    found = {path.relative_to(home).as_posix(): path.read_bytes() for path in home.rglob("*") if path.is_file()}
    return {name: data for name, data in found.items() if not name.endswith("SHA256SUMS")}


def test_a_folder_is_fetched_with_its_subfolders(object_store: ObjectStore, tmp_path: Path) -> None:
    put(object_store, "weights/base", FILES)

    size = fetch(object_store, "weights/base", tmp_path)

    assert there(tmp_path) == {f"weights/base/{name}": data for name, data in FILES.items()}
    assert size == sum(map(len, FILES.values()))
    assert verify("weights/base", tmp_path) == len(FILES)


def test_files_that_match_their_checksums_are_not_fetched_again(object_store: ObjectStore, tmp_path: Path) -> None:
    put(object_store, "weights/base", FILES)
    fetch(object_store, "weights/base", tmp_path)
    (tmp_path / "weights/base/config.json").write_bytes(b"{broken")

    assert fetch(object_store, "weights/base", tmp_path) == len(FILES["config.json"])
    assert there(tmp_path)["weights/base/config.json"] == b"{}"


def test_a_file_that_does_not_match_its_checksum_is_named_and_not_kept(
    object_store: ObjectStore, tmp_path: Path
) -> None:
    put(object_store, "weights/base", FILES, **{"config.json": "0" * 64})

    with pytest.raises(FolderCorrupt, match=r"in the object store does not match its checksum"):
        fetch(object_store, "weights/base", tmp_path)

    assert "weights/base/config.json" not in there(tmp_path)
    assert not list(tmp_path.rglob("*.part"))


def test_a_folder_without_checksums_counts_as_missing(object_store: ObjectStore, tmp_path: Path) -> None:
    object_store.put("weights/base/config.json", b"{}")

    with pytest.raises(FolderCorrupt, match="weights/base/SHA256SUMS is not in the object store"):
        fetch(object_store, "weights/base", tmp_path)


def test_a_missing_file_with_a_checksum_is_named(object_store: ObjectStore, tmp_path: Path) -> None:
    put(object_store, "weights/base", FILES, **{"model.safetensors": "0" * 64})

    with pytest.raises(FolderCorrupt, match=r"weights/base/model\.safetensors is not in the object store"):
        fetch(object_store, "weights/base", tmp_path)


@pytest.mark.parametrize("name", ["../keys.json", "/etc/passwd", "a/../../b"])
def test_checksum_paths_cannot_leave_their_folder(name: str) -> None:
    with pytest.raises(FolderCorrupt, match="not a checksum of a file in the folder"):
        read_sums(f"{'0' * 64}  {name}\n", "weights/base")


def test_a_mounted_folder_with_a_modified_file_is_refused(tmp_path: Path) -> None:
    place = tmp_path / "weights/base"
    place.mkdir(parents=True)
    (place / "config.json").write_bytes(b"{}")
    (place / "SHA256SUMS").write_text(f"{hashlib.sha256(b'{}').hexdigest()}  config.json\n")
    assert verify("weights/base", tmp_path) == 1

    (place / "config.json").write_bytes(b"{ }")

    with pytest.raises(FolderCorrupt, match=r"weights/base/config\.json does not match its checksum"):
        verify("weights/base", tmp_path)


@pytest.mark.usefixtures("quiet")
def test_the_command_uses_the_store_from_its_environment_and_exits_with_0(
    object_store: ObjectStore, store_settings: StoreSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(object_store, "adapters/legal", FILES)
    for name, value in store_environment(store_settings).items():
        monkeypatch.setenv(name, value)

    assert folders.main(["fetch", "--home", str(tmp_path), "adapters/legal"]) == 0
    assert folders.main(["verify", "--home", str(tmp_path), "adapters/legal"]) == 0


@pytest.mark.usefixtures("quiet")
def test_the_command_reports_an_error_in_one_line_and_exits_with_1(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert folders.main(["verify", "--home", str(tmp_path), "weights/nano"]) == 1

    assert "weights/nano/SHA256SUMS is missing" in capsys.readouterr().err


def test_the_command_accepts_only_weights_and_adapter_folders(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        folders.main(["fetch", "--home", str(tmp_path), "jobs/acme"])

    assert ended.value.code == 2
    assert "not a folder of weights or adapters" in capsys.readouterr().err
