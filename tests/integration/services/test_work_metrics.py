"""Metrics of batches and real-time factors."""

from prometheus_client import REGISTRY

from lyra.v1.speech_synthesizer_pb2 import SynthesizeRequest
from lyra.v1.speech_synthesizer_pb2_grpc import SpeechSynthesizerStub
from services.shared.pipeline.clients import ModelClients
from services.shared.pipeline.encode import encode_image, encode_speech
from services.shared.pipeline.encode_and_transcribe import encode_and_transcribe
from services.shared.pipeline.messages import AudioPart, ImagePart
from services.shared.pipeline.transcribe import transcribe
from services.shared.rpc.threads import WorkTimer
from tests.conftest import StartService, until
from tests.paths import EXAMPLES


def sample(name: str, service: str) -> float:
    return REGISTRY.get_sample_value(name, {"service": service}) or 0.0


async def test_each_way_of_processing_a_recording_reports_its_real_time_factor(start_service: StartService) -> None:
    running = await start_service("speech_encoder", preset="tiny")
    services, part = (
        ModelClients.open({"speech_encoder": running.address}),
        AudioPart((EXAMPLES / "question.wav").read_bytes()),
    )
    factors, batches = "lyra_real_time_factor_count", "lyra_batch_size_count"
    before = sample(factors, "speech_encoder"), sample(batches, "speech_encoder")
    await encode_speech(services, part, "acme")
    await encode_and_transcribe(services, part, "acme")
    # A batch is counted once its last clip has been sent.
    await until(lambda: sample(batches, "speech_encoder") >= before[1] + 2)
    assert sample(batches, "speech_encoder") == before[1] + 2
    assert [event async for event in transcribe(services, part, "acme")]
    assert sample(factors, "speech_encoder") == before[0] + 3
    assert sample("lyra_real_time_factor_sum", "speech_encoder") > 0
    await services.close()


async def test_a_single_picture_counts_as_a_batch_of_one(start_service: StartService) -> None:
    running = await start_service("vision_encoder")
    services, before = (
        ModelClients.open({"vision_encoder": running.address}),
        sample("lyra_batch_size_sum", "vision_encoder"),
    )
    await encode_image(services, ImagePart((EXAMPLES / "picture.png").read_bytes()), "acme")
    assert sample("lyra_batch_size_sum", "vision_encoder") == before + 1
    await services.close()


async def test_a_spoken_answer_reports_its_real_time_factor(start_service: StartService) -> None:
    running = await start_service("speech_synthesizer")
    before = sample("lyra_real_time_factor_count", "speech_synthesizer")
    requests = [SynthesizeRequest(header=SynthesizeRequest.Header()), SynthesizeRequest(text_delta="Hello there.")]
    heard = [response async for response in SpeechSynthesizerStub(running.channel).Synthesize(iter(requests))]
    assert heard
    assert sample("lyra_real_time_factor_count", "speech_synthesizer") == before + 1


def test_work_time_excludes_the_reader_between_steps() -> None:
    work, moments = WorkTimer(), []

    def steps() -> list[int]:
        moments.append(work.seconds)
        return [1, 2, 3]

    assert list(work.wrap_iterator(lambda: iter(steps()))()) == [1, 2, 3]
    counted = work.seconds
    assert counted > moments[0] == 0.0
    assert work.wrap(lambda: 7)() == 7
    assert work.seconds > counted
