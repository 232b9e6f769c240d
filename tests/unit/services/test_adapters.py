"""An adapter leaves after those who use it; names from outside never become paths."""

import asyncio
from contextlib import nullcontext
from pathlib import Path
from typing import Any, cast

import pytest

from lyra.v1.adapters_pb2 import ListAdaptersRequest, LoadAdapterRequest, UnloadAdapterRequest
from services.shared.rpc.lora_registry import AdapterModel, AdaptersServicer, AdapterUse
from services.shared.rpc.threads import ModelThread
from services.shared.service_errors import InvalidInput

CONTEXT = cast(Any, None)


class Model:
    """Keeps the names that are loaded."""

    def __init__(self) -> None:
        self.loaded: dict[str, Path] = {"speech": Path()}

    def load(self, name: str, folder: Path) -> None:
        self.loaded[name] = folder

    def unload(self, name: str) -> None:
        del self.loaded[name]


def servicer(model: Model, folder: Path, *, optional: bool = False) -> AdaptersServicer:
    adapters = AdapterModel(
        resident=lambda: list(model.loaded),
        load=model.load,
        unload=model.unload,
        files=("weights",),
        optional=optional,
    )
    return AdaptersServicer(adapters, folder=folder, thread=ModelThread("test"), alone=lambda name: nullcontext())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Of adapters: two of them, and things that are none."""
    for name in ("long_speech", "other", "Not-a-name", "speech", ".hidden"):
        (tmp_path / "adapters" / name).mkdir(parents=True)
        (tmp_path / "adapters" / name / "weights").touch()
    (tmp_path / "adapters" / "empty").mkdir()
    (tmp_path / "adapters" / "file").touch()
    (tmp_path / "weights").touch()
    return tmp_path / "adapters"


async def test_folders_with_the_models_files_are_available(folder: Path) -> None:
    listed = await servicer(Model(), folder).ListAdapters(ListAdaptersRequest(), CONTEXT)
    assert list(listed.resident) == ["speech"]
    assert list(listed.available) == ["long_speech", "other"]


async def test_without_a_folder_nothing_is_available(tmp_path: Path) -> None:
    listed = await servicer(Model(), tmp_path / "nowhere").ListAdapters(ListAdaptersRequest(), CONTEXT)
    assert list(listed.available) == []


async def test_what_is_loaded_can_be_unloaded_and_loaded_again(folder: Path) -> None:
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
        ("", "no name"),
        ("..", "no name"),
        ("../adapters", "no name"),
        ("/etc", "no name"),
        ("other\n", "no name"),
        ("Not-a-name", "no name"),
        ("x" * 65, "no name"),
        ("base", "no adapter at all"),
        ("speech", "resident already"),
        ("empty", "there: long_speech, other, speech"),
        ("file", "there: long_speech, other, speech"),
    ],
)
async def test_what_cannot_be_loaded_is_refused_and_changes_nothing(folder: Path, name: str, message: str) -> None:
    model = Model()
    with pytest.raises(InvalidInput, match=message) as refusal:
        await servicer(model, folder).LoadAdapter(LoadAdapterRequest(name=name), CONTEXT)
    assert refusal.value.field == "name"
    assert list(model.loaded) == ["speech"]


def test_adapters_named_at_start_are_resident(folder: Path) -> None:
    model = Model()
    servicer(model, folder).load_at_start(["other", "long_speech"], lambda error: None)
    assert model.loaded.keys() == {"speech", "other", "long_speech"}


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("", "no name"),
        ("../adapters", "no name"),
        ("base", "no adapter at all"),
        ("speech", "preset's own"),
        ("empty", "'empty' is not in .*adapters .*there: long_speech, other, speech"),
        ("nowhere", "'nowhere' is not in .*adapters"),
    ],
)
def test_an_adapter_that_cannot_be_loaded_at_start_is_named_with_the_setting(
    folder: Path, name: str, message: str
) -> None:
    with pytest.raises(InvalidInput, match=message) as refusal:
        servicer(Model(), folder).load_at_start([name], lambda error: None)
    assert refusal.value.field == "LYRA_ADAPTERS"


def test_an_adapter_without_a_part_for_the_model_is_passed_over_where_that_may_be(folder: Path) -> None:
    model = Model()
    servicer(model, folder, optional=True).load_at_start(["empty", "other"], lambda error: None)
    assert model.loaded.keys() == {"speech", "other"}
    with pytest.raises(InvalidInput, match="'nowhere' is not in"):
        servicer(model, folder, optional=True).load_at_start(["nowhere"], lambda error: None)


def test_an_adapter_that_does_not_fit_at_start_is_named_and_an_unknown_mistake_is_not_hidden(folder: Path) -> None:
    model = Model()
    model.load = lambda name, folder: [][1]  # type: ignore[method-assign]
    with pytest.raises(InvalidInput, match="'other' cannot be loaded: rank: 3"):
        servicer(model, folder).load_at_start(["other"], lambda error: InvalidInput("rank", "3"))
    with pytest.raises(IndexError):
        servicer(model, folder).load_at_start(["other"], lambda error: None)


async def test_what_is_not_resident_cannot_be_unloaded(folder: Path) -> None:
    with pytest.raises(InvalidInput, match="resident: speech"):
        await servicer(Model(), folder).UnloadAdapter(UnloadAdapterRequest(name="other"), CONTEXT)


async def test_a_change_waits_for_all_who_use_the_adapter() -> None:
    use, order = AdapterUse(), list[str]()
    started, end = asyncio.Event(), asyncio.Event()

    async def request() -> None:
        async with use.using("speech"):
            started.set()
            await end.wait()
            order.append("request")

    async def change() -> None:
        async with use.alone("speech"):
            order.append("change")

    async with asyncio.TaskGroup() as group:
        group.create_task(request())
        group.create_task(request())
        await started.wait()
        changing = group.create_task(change())
        await asyncio.sleep(0)
        with pytest.raises(InvalidInput, match="being unloaded"):
            async with use.using("speech"):
                pass
        async with use.using("other"):
            assert not changing.done()
        end.set()
    assert order == ["request", "request", "change"]
    async with use.using("speech"):
        pass


async def test_a_change_that_is_given_up_leaves_the_adapter_in_use() -> None:
    use = AdapterUse()
    async with use.using("speech"):
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0), use.alone("speech"):
                pass
        async with use.using("speech"):
            pass
