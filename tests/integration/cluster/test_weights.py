"""`lyra cluster weights sync`: folders into a real object store, and back as a model service's pod fetches them."""

from pathlib import Path

import pytest

from services.operations.cluster import weights
from services.operations.cluster.cluster_errors import ClusterError
from services.operations.cluster.weights import Shelf, folder_files, plan_sync, sync
from services.shared.storage.client import ObjectStore
from services.shared.storage.folders import FolderBroken, fetch
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
def led(store_settings: StoreSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in store_environment(store_settings).items():
        monkeypatch.setenv(name, value)


def keys(store: ObjectStore) -> list[str]:
    return sorted(each.key for each in store.list(""))


def send(store: ObjectStore, folder: Path, name: str = "tiny") -> list[str]:
    plan = plan_sync(store, Shelf.WEIGHTS, name, folder_files(folder))
    sync(store, plan)
    return [file.name for file in plan.to_send]


def test_what_is_synced_is_what_a_pod_fetches(object_store: ObjectStore, folder: Path, tmp_path: Path) -> None:
    send(object_store, folder)
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


def test_what_is_there_already_is_not_sent_again(object_store: ObjectStore, folder: Path) -> None:
    assert len(send(object_store, folder)) == 3
    assert send(object_store, folder) == []
    (folder / "config.json").write_text("[]")  # of the same length
    assert send(object_store, folder) == ["config.json"]


def test_what_the_folder_has_no_more_is_taken_away(object_store: ObjectStore, folder: Path) -> None:
    send(object_store, folder)
    (folder / "config.json").unlink()
    send(object_store, folder)
    assert "weights/tiny/config.json" not in keys(object_store)


def test_a_file_in_several_parts_arrives_whole(
    object_store: ObjectStore, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(weights, "_PART_BYTES", 5 * 2**20)
    (folder / "model.safetensors").write_bytes(bytes(range(251)) * 64_000)  # 16 MB: four parts
    send(object_store, folder)
    assert object_store.get("weights/tiny/model.safetensors") == (folder / "model.safetensors").read_bytes()


def test_a_sync_that_was_interrupted_goes_on_and_nobody_takes_half_of_it(
    object_store: ObjectStore, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put = object_store.put

    def broken(key: str, data: bytes, content_type: str) -> None:
        if key.endswith("model.safetensors"):
            raise KeyboardInterrupt
        put(key, data, content_type)

    monkeypatch.setattr(object_store, "put", broken)
    with pytest.raises(KeyboardInterrupt):
        send(object_store, folder)
    monkeypatch.setattr(object_store, "put", put)
    with pytest.raises(FolderBroken, match="SHA256SUMS is not in the object store"):
        fetch(object_store, "weights/tiny", tmp_path / "home")
    assert send(object_store, folder) == ["model.safetensors", "speech_lora/adapter_config.json"]
    assert "weights/tiny/SHA256SUMS.part" not in keys(object_store)


def test_a_file_that_changes_meanwhile_is_not_passed_off_as_whole(object_store: ObjectStore, folder: Path) -> None:
    files = folder_files(folder)
    (folder / "config.json").write_text("[]")
    with pytest.raises(ClusterError, match="changed while it was sent"):
        sync(object_store, plan_sync(object_store, Shelf.WEIGHTS, "tiny", files))
    assert "weights/tiny/SHA256SUMS" not in keys(object_store)


@pytest.mark.parametrize("name", ["", "a/b", "../x", ".hidden", "x" * 64])
def test_a_name_that_is_none_is_refused(object_store: ObjectStore, folder: Path, name: str) -> None:
    with pytest.raises(ClusterError, match="no name for weights"):
        plan_sync(object_store, Shelf.WEIGHTS, name, folder_files(folder))


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ClusterError, match="holds no files"):
        folder_files(tmp_path)


def test_the_command_tells_what_it_would_do_and_asks(
    led: None, object_store: ObjectStore, folder: Path, lyra: Lyra
) -> None:
    result = lyra("weights", "sync", folder, "--dry-run")
    assert result.exit_code == 0, result.output
    assert "weights/Lyra_Tiny/: 3 of 3 files are to be sent" in result.stderr
    assert lyra("weights", "sync", folder, input="n\n").exit_code == 1
    assert keys(object_store) == []
    result = lyra("weights", "sync", folder, "--adapter", "--name", "medical", "--yes")
    assert result.exit_code == 0, result.output
    assert "adapters/medical/SHA256SUMS" in keys(object_store)


def test_a_source_that_is_nothing_is_named(lyra: Lyra) -> None:
    result = lyra("weights", "sync", "nothing-here", "--yes")
    assert result.exit_code == 1
    assert "nothing-here is no folder" in result.stderr


def test_a_store_that_is_not_there_says_how_it_is_named(
    folder: Path, lyra: Lyra, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LYRA_STORE_ENDPOINT", "127.0.0.1:1")
    monkeypatch.setenv("LYRA_STORE_TRIES", "1")
    result = lyra("weights", "sync", folder, "--yes")
    assert result.exit_code == 1
    assert "LYRA_STORE_ENDPOINT" in result.stderr
    assert "kubectl port-forward" in result.stderr
