"""An adapter is unloaded after its last user; names from requests never become paths."""

import asyncio
from contextlib import nullcontext
from pathlib import Path
from typing import Any, cast

import pytest

from lyra.v1.adapters_pb2 import ListAdaptersRequest, LoadAdapterRequest, UnloadAdapterRequest
from services.shared.rpc.lora_registry import AdapterHost, AdaptersServicer, AdapterUsage
from services.shared.rpc.threads import ModelThread
from services.shared.service_errors import InvalidInput

CONTEXT = cast(Any, None)


class Model:
    """Records the names that are loaded."""

    def __init__(self) -> None:
        self.loaded: dict[str, Path] = {"speech": Path()}

    def load(self, name: str, folder: Path) -> None:
        self.loaded[name] = folder

    def unload(self, name: str) -> None:
        del self.loaded[name]


def servicer(model: Model, folder: Path, *, optional: bool = False) -> AdaptersServicer:
    adapters = AdapterHost(
        resident=lambda: list(model.loaded),
        load=model.load,
        unload=model.unload,
        files=("weights",),
        optional=optional,
    )
    return AdaptersServicer(adapters, folder=folder, thread=ModelThread("test"), exclusive=lambda name: nullcontext())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with two adapters, and files that are not adapters."""
    for name in ("long_speech", "other", "Not-a-name", "speech", ".hidden"):
        (tmp_path / "adapters" / name).mkdir(parents=True)
        (tmp_path / "adapters" / name / "weights").touch()
    (tmp_path / "adapters" / "empty").mkdir()
    (tmp_path / "adapters" / "file").touch()
    (tmp_path / "weights").touch()
    return tmp_path / "adapters"


async def test_folders_with_files_for_the_model_are_available(folder: Path) -> None:
    listed = await servicer(Model(), folder).ListAdapters(ListAdaptersRequest(), CONTEXT)
    assert list(listed.resident) == ["speech"]
    assert list(listed.available) == ["long_speech", "other"]


async def test_without_a_folder_nothing_is_available(tmp_path: Path) -> None:
    listed = await servicer(Model(), tmp_path / "nowhere").ListAdapters(ListAdaptersRequest(), CONTEXT)
    assert list(listed.available) == []


async def test_an_adapter_can_be_loaded_unloaded_and_loaded_again(folder: Path) -> None:
    model = Model()
    service = servicer(model, folder)
    for _ in range(2):
        await service.LoadAdapter(LoadAdapterRequest(name="other"), CONTEXT)
        assert model.loaded["other"] == folder / "other"
        await service.UnloadAdapter(UnloadAdapterRequest(name="other"), CONTEXT)
        assert "other" not in model.loaded


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("", "not an adapter name"),
        ("..", "not an adapter name"),
        ("../adapters", "not an adapter name"),
        ("/etc", "not an adapter name"),
        ("other\n", "not an adapter name"),
        ("Not-a-name", "not an adapter name"),
        ("x" * 65, "not an adapter name"),
        ("base", "without an adapter"),
        ("speech", "already resident"),
        ("empty", "which has: long_speech, other, speech"),
        ("file", "which has: long_speech, other, speech"),
    ],
)
async def test_loading_an_invalid_adapter_is_refused_and_changes_nothing(folder: Path, name: str, message: str) -> None:
    model = Model()
    with pytest.raises(InvalidInput, match=message) as refusal:
        await servicer(model, folder).LoadAdapter(LoadAdapterRequest(name=name), CONTEXT)
    assert refusal.value.field == "name"
    assert list(model.loaded) == ["speech"]


def test_adapters_named_at_start_are_resident(folder: Path) -> None:
    model = Model()
    servicer(model, folder).preload(["other", "long_speech"], lambda error: None)
    assert model.loaded.keys() == {"speech", "other", "long_speech"}


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("", "not an adapter name"),
        ("../adapters", "not an adapter name"),
        ("base", "without an adapter"),
        ("speech", "preset's own"),
        ("empty", "'empty' is not in .*adapters .*which has: long_speech, other, speech"),
        ("nowhere", "'nowhere' is not in .*adapters"),
    ],
)
def test_an_adapter_that_cannot_be_loaded_at_start_is_named_with_the_setting(
    folder: Path, name: str, message: str
) -> None:
    with pytest.raises(InvalidInput, match=message) as refusal:
        servicer(Model(), folder).preload([name], lambda error: None)
    assert refusal.value.field == "LYRA_ADAPTERS"


def test_an_optional_adapter_without_files_for_the_model_is_skipped(folder: Path) -> None:
    model = Model()
    servicer(model, folder, optional=True).preload(["empty", "other"], lambda error: None)
    assert model.loaded.keys() == {"speech", "other"}
    with pytest.raises(InvalidInput, match="'nowhere' is not in"):
        servicer(model, folder, optional=True).preload(["nowhere"], lambda error: None)


def test_a_mismatched_adapter_at_start_is_named_and_other_errors_propagate(folder: Path) -> None:
    model = Model()
    model.load = lambda name, folder: [][1]  # type: ignore[method-assign]
    with pytest.raises(InvalidInput, match="'other' cannot be loaded: rank: 3"):
        servicer(model, folder).preload(["other"], lambda error: InvalidInput("rank", "3"))
    with pytest.raises(IndexError):
        servicer(model, folder).preload(["other"], lambda error: None)


async def test_an_adapter_that_is_not_resident_cannot_be_unloaded(folder: Path) -> None:
    with pytest.raises(InvalidInput, match="resident: speech"):
        await servicer(Model(), folder).UnloadAdapter(UnloadAdapterRequest(name="other"), CONTEXT)


async def test_a_change_waits_for_all_requests_that_use_the_adapter() -> None:
    use, order = AdapterUsage(), list[str]()
    started, end = asyncio.Event(), asyncio.Event()

    async def request() -> None:
        async with use.hold("speech"):
            started.set()
            await end.wait()
            order.append("request")

    async def change() -> None:
        async with use.exclusive("speech"):
            order.append("change")

    async with asyncio.TaskGroup() as group:
        group.create_task(request())
        group.create_task(request())
        await started.wait()
        changing = group.create_task(change())
        await asyncio.sleep(0)
        with pytest.raises(InvalidInput, match="being unloaded"):
            async with use.hold("speech"):
                pass
        async with use.hold("other"):
            assert not changing.done()
        end.set()
    assert order == ["request", "request", "change"]
    async with use.hold("speech"):
        pass


async def test_a_cancelled_change_leaves_the_adapter_usable() -> None:
    use = AdapterUsage()
    async with use.hold("speech"):
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0), use.exclusive("speech"):
                pass
        async with use.hold("speech"):
            pass
