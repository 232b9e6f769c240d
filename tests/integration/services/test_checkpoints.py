"""Services with a checkpoint folder in the published layout."""

import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from lyra.v1 import language_model_pb2, language_model_pb2_grpc, speech_encoder_pb2, speech_encoder_pb2_grpc
from lyra.v1.language_model_pb2 import GenerateHeader, GenerateRequest, GenerateResponse, MessageStart
from model_core.checkpoints.exporting import export
from model_core.errors import CheckpointError, WeightsMissing
from model_core.presets import build_language_model, build_speech_encoder, build_vision_encoder
from model_core.presets.catalog.tiny_qwen2_vl import architecture
from model_core.speech.projector import SpeechProjector
from model_core.vision.qwen import QwenVisionEncoder
from services.operations.local.stack import SERVICES
from tests.conftest import RunningService, StartService

PRESET = "tiny-qwen2-vl"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """All of the preset's random weights, in the published layout."""
    model, speech = build_language_model(PRESET), build_speech_encoder(PRESET)
    vision = build_vision_encoder(PRESET)
    assert isinstance(vision, QwenVisionEncoder)
    projectors = {name: each for name, each in speech.projectors.items() if isinstance(each, SpeechProjector)}
    export(
        tmp_path / "Lyra",
        decoder=model.decoder,
        tokenizer=model.tokenizer,
        speech=speech.whisper,
        speech_projectors=projectors,
        vision=vision,
        speech_generator=architecture().unit_generator.build(),
        vocoder=architecture().vocoder.build(),
    )
    return tmp_path / "Lyra"


async def answer(service: RunningService) -> list[GenerateResponse]:
    async def prompt() -> AsyncIterator[GenerateRequest]:
        yield GenerateRequest(header=GenerateHeader(max_tokens=12, adapter="long_speech"))
        yield GenerateRequest(message_start=MessageStart(role=language_model_pb2.ROLE_USER))
        yield GenerateRequest(text="Hello there")

    stub = language_model_pb2_grpc.LanguageModelStub(service.channel)
    return [event async for event in stub.Generate(prompt())]


async def test_all_services_run_a_folder_in_the_published_layout(start_service: StartService, folder: Path) -> None:
    source = await start_service("language_model", preset=PRESET)
    loaded = {name: await start_service(name, preset=PRESET, checkpoint=folder) for name in SERVICES}
    assert await answer(loaded["language_model"]) == await answer(source)
    speech = speech_encoder_pb2_grpc.SpeechEncoderStub(loaded["speech_encoder"].channel)
    description = await speech.Describe(speech_encoder_pb2.SpeechEncoderDescribeRequest())
    assert sorted(description.model.adapters) == ["long_speech", "speech"]


async def test_a_truncated_shard_is_named(start_service: StartService, folder: Path) -> None:
    shard = folder / "model.safetensors"
    shard.write_bytes(shard.read_bytes()[:-1000])
    with pytest.raises(CheckpointError, match=shard.name):
        await start_service("language_model", preset=PRESET, checkpoint=folder)


async def test_a_checkpoint_of_another_model_is_refused_by_field(start_service: StartService, folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"intermediate_size": 96}))
    with pytest.raises(CheckpointError, match="intermediate_size"):
        await start_service("language_model", preset=PRESET, checkpoint=folder)


async def test_a_preset_that_needs_a_checkpoint_names_the_option(start_service: StartService) -> None:
    with pytest.raises(WeightsMissing, match="LYRA_CHECKPOINT"):
        await start_service("language_model", preset="base")
