"""Adapters are loaded and unloaded while the language model and the speech encoder run, over real sockets."""

import asyncio
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest

from lyra.v1 import (
    adapters_pb2,
    adapters_pb2_grpc,
    language_model_pb2,
    language_model_pb2_grpc,
    speech_encoder_pb2_grpc,
)
from lyra.v1.language_model_pb2 import GenerateHeader, GenerateRequest, GenerateResponse, MessageStart
from lyra.v1.speech_encoder_pb2 import AudioHeader, EncodedAudio, SpeechEncoderEncodeRequest
from model_core.checkpoints.peft_adapters import CONFIG_FILE
from services.shared.pipeline.adapter_admin import AdapterClients
from services.shared.rpc.channels import open_channel
from services.shared.service_errors import InvalidInput, Unavailable, from_rpc_error
from tests.adapters import write_adapter
from tests.callers import shows, token
from tests.conftest import RunningService, StartService
from tests.integration.gateway.conftest import wav

BOTH = ("speech_encoder", "language_model")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder of adapters: `meetings` with a projector, `captions` without."""
    write_adapter(tmp_path / "adapters" / "meetings", "tiny")
    write_adapter(tmp_path / "adapters" / "captions", "tiny", projector=False)
    return tmp_path / "adapters"


@pytest.fixture
async def running(start_service: StartService, folder: Path) -> dict[str, RunningService]:
    settings = {"adapters_dir": folder, "operator_token_file": token(folder.parent)}
    return {name: await start_service(name, **settings) for name in BOTH}


@pytest.fixture
async def adapters(running: dict[str, RunningService], folder: Path) -> AsyncIterator[AdapterClients]:
    operator = shows(token(folder.parent))
    opened = AdapterClients.open({name: service.address for name, service in running.items()}, operator)
    yield opened
    await opened.close()


async def resident(adapters: AdapterClients) -> dict[str, tuple[str, ...]]:
    return {state.name: state.resident for state in await adapters.list() if state.resident}


async def prompt(**header: object) -> AsyncIterator[GenerateRequest]:
    yield GenerateRequest(header=GenerateHeader(**header))  # type: ignore[arg-type]
    yield GenerateRequest(message_start=MessageStart(role=language_model_pb2.ROLE_USER))
    yield GenerateRequest(text="Hello there")


class Model:
    """Calls the language model."""

    def __init__(self, service: RunningService) -> None:
        self.stub = language_model_pb2_grpc.LanguageModelStub(service.channel)

    async def answer(self, **header: object) -> list[GenerateResponse]:
        try:
            events = [event async for event in self.stub.Generate(prompt(**header))]
        except grpc.aio.AioRpcError as error:
            raise from_rpc_error("language_model", error) from error
        # How much the prefix cache has differs from call to call.
        events[-1].finish.usage.ClearField("cached_tokens")
        return events


@pytest.fixture
def model(running: dict[str, RunningService]) -> Model:
    return Model(running["language_model"])


async def test_an_adapter_can_be_used_between_load_and_unload(adapters: AdapterClients, model: Model) -> None:
    before = await resident(adapters)
    base = await model.answer(max_tokens=8)
    assert await adapters.load("meetings") == BOTH
    assert await resident(adapters) == {**before, "meetings": BOTH}
    adapted = await model.answer(max_tokens=8, adapter="meetings")
    assert adapted[-1].finish.usage.adapter == "meetings"
    assert adapted[:-1] != base[:-1]
    assert await model.answer(max_tokens=8) == base
    assert set(await adapters.unload("meetings")) == set(BOTH)
    assert await resident(adapters) == before
    with pytest.raises(InvalidInput) as refusal:
        await model.answer(max_tokens=8, adapter="meetings")
    assert refusal.value.field == "adapter"


async def test_an_adapter_without_a_projector_is_loaded_by_the_language_model_only(adapters: AdapterClients) -> None:
    assert await adapters.load("captions") == ("language_model",)
    assert await adapters.unload("captions") == ("language_model",)


async def test_loading_and_unloading_does_not_affect_running_answers(adapters: AdapterClients, model: Model) -> None:
    expected = await model.answer(max_tokens=30)

    async def keep_asking() -> None:
        for _ in range(6):
            assert await model.answer(max_tokens=30) == expected

    async with asyncio.TaskGroup() as group:
        group.create_task(keep_asking())
        group.create_task(keep_asking())
        for _ in range(4):
            await adapters.load("meetings")
            await adapters.unload("meetings")


async def test_a_running_answer_keeps_its_adapter(adapters: AdapterClients, model: Model) -> None:
    await adapters.load("meetings")
    expected = await model.answer(max_tokens=60, adapter="meetings", seed=1)
    running = aiter(model.stub.Generate(prompt(max_tokens=60, adapter="meetings", seed=1)))
    events = [await anext(running)]
    unloading = asyncio.create_task(adapters.unload("meetings"))
    events += [event async for event in running]
    assert events[:-1] == expected[:-1]
    await unloading
    assert "meetings" not in await resident(adapters)


async def test_a_recording_in_progress_keeps_its_projector(start_service: StartService, folder: Path) -> None:
    operator = token(folder.parent)
    service = await start_service(
        "speech_encoder", adapters_dir=folder, max_batch_clips=1, operator_token_file=operator
    )
    channel = open_channel(service.address, shows(operator))
    adapters = adapters_pb2_grpc.AdaptersStub(channel)
    await adapters.LoadAdapter(adapters_pb2.LoadAdapterRequest(name="meetings"))

    async def recording() -> AsyncIterator[SpeechEncoderEncodeRequest]:
        audio = AudioHeader(encoded=EncodedAudio())
        yield SpeechEncoderEncodeRequest(header=SpeechEncoderEncodeRequest.Header(audio=audio, adapter="meetings"))
        data = wav(120)
        for start in range(0, len(data), 2**20):
            yield SpeechEncoderEncodeRequest(data=data[start : start + 2**20])

    clips = aiter(speech_encoder_pb2_grpc.SpeechEncoderStub(service.channel).Encode(recording()))
    first = await anext(clips)
    unloading = asyncio.ensure_future(adapters.UnloadAdapter(adapters_pb2.UnloadAdapterRequest(name="meetings")))
    names = [first.speech_tokens.adapter, *[clip.speech_tokens.adapter async for clip in clips]]
    assert names == ["meetings"] * 4
    await unloading
    listed = await adapters.ListAdapters(adapters_pb2.ListAdaptersRequest())
    assert list(listed.resident) == ["speech"]
    await channel.close(None)


async def test_tokens_of_a_replaced_adapter_are_not_cached(
    adapters: AdapterClients, running: dict[str, RunningService], folder: Path
) -> None:
    stub = speech_encoder_pb2_grpc.SpeechEncoderStub(running["speech_encoder"].channel)

    async def recording() -> AsyncIterator[SpeechEncoderEncodeRequest]:
        audio = AudioHeader(encoded=EncodedAudio())
        yield SpeechEncoderEncodeRequest(header=SpeechEncoderEncodeRequest.Header(audio=audio, adapter="meetings"))
        yield SpeechEncoderEncodeRequest(data=wav(1))

    async def tokens() -> list[bytes]:
        return [clip.speech_tokens.tokens.rows.data async for clip in stub.Encode(recording())]

    await adapters.load("meetings")
    before = await tokens()
    assert await tokens() == before
    await adapters.unload("meetings")
    write_adapter(folder / "meetings", "tiny", seed=2)
    await adapters.load("meetings")
    assert await tokens() != before


async def test_the_speech_encoder_unloads_an_adapter_that_the_language_model_cannot_load(
    adapters: AdapterClients, model: Model, folder: Path
) -> None:
    before, base = await resident(adapters), await model.answer(max_tokens=8)
    config = folder / "meetings" / CONFIG_FILE
    config.write_text(config.read_text().replace('"r": 2', '"r": 3'))
    with pytest.raises(InvalidInput, match="rank 3"):
        await adapters.load("meetings")
    assert await resident(adapters) == before
    assert await model.answer(max_tokens=8) == base


async def test_truncated_adapter_files_change_nothing(adapters: AdapterClients, folder: Path) -> None:
    before = await resident(adapters)
    weights = folder / "meetings" / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(InvalidInput):
        await adapters.load("meetings")
    assert await resident(adapters) == before


@pytest.mark.parametrize("name", ["nowhere", "", "../adapters/meetings", "base"])
async def test_an_adapter_without_a_folder_is_refused(adapters: AdapterClients, name: str) -> None:
    with pytest.raises(InvalidInput) as refusal:
        await adapters.load(name)
    assert refusal.value.field == "name"
    with pytest.raises(InvalidInput):
        await adapters.unload(name)


async def test_a_resident_adapter_is_not_loaded_twice(adapters: AdapterClients) -> None:
    await adapters.load("meetings")
    with pytest.raises(InvalidInput, match="already resident"):
        await adapters.load("meetings")


async def test_a_restarted_service_gets_its_adapters_back(
    adapters: AdapterClients, running: dict[str, RunningService], folder: Path
) -> None:
    await adapters.load("meetings")
    async with open_channel(running["language_model"].address, shows(token(folder.parent))) as channel:
        alone = adapters_pb2_grpc.AdaptersStub(channel)
        await alone.UnloadAdapter(adapters_pb2.UnloadAdapterRequest(name="meetings"))
    assert await adapters.load("meetings") == ("language_model",)
    assert (await resident(adapters))["meetings"] == BOTH


async def test_an_adapter_whose_folder_is_gone_stays_until_it_is_unloaded(
    adapters: AdapterClients, folder: Path
) -> None:
    await adapters.load("meetings")
    shutil.rmtree(folder / "meetings")
    assert (await resident(adapters))["meetings"] == BOTH
    await adapters.unload("meetings")
    assert "meetings" not in [state.name for state in await adapters.list()]


async def test_adapters_named_in_the_setting_are_loaded_at_startup(start_service: StartService, folder: Path) -> None:
    operator = token(folder.parent)
    settings = {"adapters_dir": folder, "adapters": "meetings,captions", "operator_token_file": operator}
    services = {name: await start_service(name, **settings) for name in BOTH}
    addresses = {name: service.address for name, service in services.items()}
    adapters = AdapterClients.open(addresses, shows(operator))
    there = await resident(adapters)
    assert (there["meetings"], there["captions"]) == (BOTH, ("language_model",))
    answer = await Model(services["language_model"]).answer(max_tokens=4, adapter="captions")
    assert answer[-1].finish.usage.adapter == "captions"
    assert set(await adapters.unload("meetings")) == set(BOTH)
    await adapters.close()


@pytest.mark.parametrize("service", BOTH)
async def test_a_service_does_not_start_if_a_configured_adapter_is_missing(
    start_service: StartService, folder: Path, service: str
) -> None:
    with pytest.raises(InvalidInput, match="'nowhere' is not in") as refusal:
        await start_service(service, adapters_dir=folder, adapters="meetings,nowhere")
    assert refusal.value.field == "LYRA_ADAPTERS"


async def test_unavailable_services_are_named() -> None:
    nobody = AdapterClients.open(dict.fromkeys(BOTH, "127.0.0.1:9"))
    with pytest.raises(Unavailable):
        await nobody.list()
    await nobody.close()
