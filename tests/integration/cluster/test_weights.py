"""`lyra cluster weights sync`: uploads to a real object store, and what a model service's pod downloads."""

from pathlib import Path

import pytest

from services.operations.cluster import weights
from services.operations.cluster.cluster_errors import ClusterError
from services.operations.cluster.weights import Prefix, plan_sync, scan_folder, sync
from services.shared.storage.client import ObjectStore
from services.shared.storage.folders import FolderCorrupt, fetch
from services.shared.storage.settings import StoreSettings
from tests.integration.cluster.conftest import Lyra
from tests.servers import store_environment


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "Lyra_Tiny"
    (folder / "speech_lora").mkdir(parents=True)
    (folder / ".cache").mkdir()
    (folder / ".cache" / "lock").write_text("x")
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(bytes(range(256)) * 5000)
    (folder / "speech_lora" / "adapter_config.json").write_text("{}")
    return folder


@pytest.fixture
def store_variables(store_settings: StoreSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in store_environment(store_settings).items():
        monkeypatch.setenv(name, value)


def keys(store: ObjectStore) -> list[str]:
    return sorted(each.key for each in store.list(""))


def upload(store: ObjectStore, folder: Path, name: str = "tiny") -> list[str]:
    plan = plan_sync(store, Prefix.WEIGHTS, name, scan_folder(folder))
    sync(store, plan)
    return [file.name for file in plan.to_upload]


def test_a_pod_fetches_the_synced_weights(object_store: ObjectStore, folder: Path, tmp_path: Path) -> None:
    upload(object_store, folder)
    assert keys(object_store) == [
        "weights/tiny/SHA256SUMS",
        "weights/tiny/config.json",
        "weights/tiny/model.safetensors",
        "weights/tiny/speech_lora/adapter_config.json",
    ]
    fetch(object_store, "weights/tiny", tmp_path / "home")
    got = tmp_path / "home" / "weights" / "tiny"
    for name in ("config.json", "model.safetensors", "speech_lora/adapter_config.json"):
        assert (got / name).read_bytes() == (folder / name).read_bytes()


def test_unchanged_files_are_not_uploaded_again(object_store: ObjectStore, folder: Path) -> None:
    assert len(upload(object_store, folder)) == 3
    assert upload(object_store, folder) == []
    (folder / "config.json").write_text("[]")  # of the same length
    assert upload(object_store, folder) == ["config.json"]


def test_files_removed_from_the_folder_are_deleted(object_store: ObjectStore, folder: Path) -> None:
    upload(object_store, folder)
    (folder / "config.json").unlink()
    upload(object_store, folder)
    assert "weights/tiny/config.json" not in keys(object_store)


def test_multipart_upload(
    object_store: ObjectStore, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(weights, "_PART_BYTES", 5 * 2**20)
    (folder / "model.safetensors").write_bytes(bytes(range(251)) * 64_000)  # 16 MB: four parts
    upload(object_store, folder)
    assert object_store.get("weights/tiny/model.safetensors") == (folder / "model.safetensors").read_bytes()


def test_interrupted_sync_resumes_and_is_never_fetched_incomplete(
    object_store: ObjectStore, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put = object_store.put

    def broken(key: str, data: bytes, content_type: str) -> None:
        if key.endswith("model.safetensors"):
            raise KeyboardInterrupt
        put(key, data, content_type)

    monkeypatch.setattr(object_store, "put", broken)
    with pytest.raises(KeyboardInterrupt):
        upload(object_store, folder)
    monkeypatch.setattr(object_store, "put", put)
    with pytest.raises(FolderCorrupt, match="SHA256SUMS is not in the object store"):
        fetch(object_store, "weights/tiny", tmp_path / "home")
    assert upload(object_store, folder) == ["model.safetensors", "speech_lora/adapter_config.json"]
    assert "weights/tiny/SHA256SUMS.part" not in keys(object_store)


def test_file_that_changes_during_the_upload_is_an_error(object_store: ObjectStore, folder: Path) -> None:
    files = scan_folder(folder)
    (folder / "config.json").write_text("[]")
    with pytest.raises(ClusterError, match="changed during the upload"):
        sync(object_store, plan_sync(object_store, Prefix.WEIGHTS, "tiny", files))
    assert "weights/tiny/SHA256SUMS" not in keys(object_store)


@pytest.mark.parametrize("name", ["", "a/b", "../x", ".hidden", "x" * 64])
def test_invalid_name_is_rejected(object_store: ObjectStore, folder: Path, name: str) -> None:
    with pytest.raises(ClusterError, match="not a valid name for weights"):
        plan_sync(object_store, Prefix.WEIGHTS, name, scan_folder(folder))


def test_empty_folder_is_rejected(tmp_path: Path) -> None:
    with pytest.raises(ClusterError, match="contains no files"):
        scan_folder(tmp_path)


def test_dry_run_and_confirmation(store_variables: None, object_store: ObjectStore, folder: Path, lyra: Lyra) -> None:
    result = lyra("weights", "sync", folder, "--dry-run")
    assert result.exit_code == 0, result.output
    assert "weights/Lyra_Tiny/: 3 of 3 files to upload" in result.stderr
    assert lyra("weights", "sync", folder, input="n\n").exit_code == 1
    assert keys(object_store) == []
    result = lyra("weights", "sync", folder, "--adapter", "--name", "medical", "--yes")
    assert result.exit_code == 0, result.output
    assert "adapters/medical/SHA256SUMS" in keys(object_store)


def test_missing_source_is_named(lyra: Lyra) -> None:
    result = lyra("weights", "sync", "nothing-here", "--yes")
    assert result.exit_code == 1
    assert "nothing-here is not a folder" in result.stderr


def test_unreachable_store_says_how_to_configure_it(folder: Path, lyra: Lyra, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LYRA_STORE_ENDPOINT", "127.0.0.1:1")
    monkeypatch.setenv("LYRA_STORE_TRIES", "1")
    result = lyra("weights", "sync", folder, "--yes")
    assert result.exit_code == 1
    assert "LYRA_STORE_ENDPOINT" in result.stderr
    assert "kubectl port-forward" in result.stderr
