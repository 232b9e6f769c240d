"""Replicas of a service behind one address: calls are balanced, new replicas get a share, draining ones none."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable

import grpc
import pytest

from lyra.v1 import language_model_pb2
from lyra.v1.language_model_pb2 import GenerateHeader, GenerateRequest, MessageStart
from lyra.v1.language_model_pb2_grpc import LanguageModelStub
from lyra.v1.vision_encoder_pb2 import VisionEncoderDescribeRequest
from lyra.v1.vision_encoder_pb2_grpc import VisionEncoderStub
from model_core.engine.sampling_params import SamplingParams
from services.operations.local.stack import SERVICES
from services.shared import telemetry
from services.shared.pipeline.answer import answer
from services.shared.pipeline.clients import NAMES, ModelClients
from services.shared.pipeline.messages import (
    AnswerRequest,
    AudioChunk,
    AudioPart,
    Finished,
    ImagePart,
    Message,
    Role,
    SpeechOptions,
    TextPart,
)
from services.shared.rpc import reconnecting
from services.shared.rpc.channels import check_address, open_channel
from tests.conftest import StartService, until
from tests.dns import NameServer
from tests.paths import EXAMPLES

STREAMS = 8
NAME = "vision-encoder.lyra.test"

OpenChannel = Callable[[str], grpc.aio.Channel]


@pytest.fixture
async def connect() -> AsyncIterator[OpenChannel]:
    """Opens channels that are closed at the end."""
    opened: list[grpc.aio.Channel] = []

    def connect(address: str) -> grpc.aio.Channel:
        opened.append(open_channel(address))
        return opened[-1]

    yield connect
    await asyncio.gather(*(channel.close(None) for channel in opened))


async def ask(channel: grpc.aio.Channel, calls: int) -> Counter[int]:
    """How many calls each replica of the vision encoder served; replicas are told apart by their frame limit."""
    stub = VisionEncoderStub(channel)
    return Counter([(await stub.Describe(VisionEncoderDescribeRequest(), timeout=60)).max_frames for _ in range(calls)])


async def asked_until(channel: grpc.aio.Channel, holds: Callable[[Counter[int]], bool]) -> Counter[int]:
    """Calls until `holds` for the last two calls; returns how many calls each replica served."""
    served: Counter[int] = Counter()
    while not holds(latest := await ask(channel, 2)):
        served += latest
        await asyncio.sleep(0.01)
    return served + latest


def both(served: Counter[int]) -> bool:
    return len(served) == 2


async def test_calls_are_balanced_over_a_list_of_replicas(start_service: StartService, connect: OpenChannel) -> None:
    first, second = [await start_service("vision_encoder", max_frames=number) for number in (1, 2)]
    channel = connect(f"{first.address}, {second.address}")
    await asked_until(channel, both)
    assert await ask(channel, 20) == {1: 10, 2: 10}


async def test_a_replica_added_to_a_dns_name_gets_its_share(start_service: StartService, connect: OpenChannel) -> None:
    first = await start_service("vision_encoder", max_frames=1, max_connection_seconds=0.5)
    await start_service("vision_encoder", max_frames=2, host="127.0.0.2", port=first.server.port)
    with NameServer(NAME, ["127.0.0.1"]) as names:
        channel = connect(names.target(first.server.port))
        assert await ask(channel, 4) == {1: 4}
        names.addresses.append("127.0.0.2")
        await asked_until(channel, both)  # no call fails meanwhile


async def test_a_loading_replica_gets_no_call_until_it_is_ready(
    start_service: StartService, connect: OpenChannel
) -> None:
    first, second = [await start_service("vision_encoder", max_frames=number) for number in (1, 2)]
    second.server._health.set_serving(False)
    channel = connect(f"{first.address},{second.address}")
    assert await ask(channel, 20) == {1: 20}
    second.server._health.set_serving()
    await asked_until(channel, both)


async def test_a_draining_replica_finishes_its_answer_and_gets_no_new_call(
    start_service: StartService, connect: OpenChannel
) -> None:
    """gRPC is notified of the drain, so not a single call has to be retried."""
    replicas = [await start_service("language_model", grace_seconds=60) for _ in range(2)]
    stub = LanguageModelStub(connect(",".join(replica.address for replica in replicas)))
    long_answer = aiter(stub.Generate(prompt()))
    await anext(long_answer)
    draining = next(replica for replica in replicas if replica.server._telemetry.running)
    drain = asyncio.create_task(draining.server.drain())
    while not draining.server._gate._closed:  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    for _ in range(20):
        await stub.Describe(language_model_pb2.LanguageModelDescribeRequest(), timeout=60)
    events = [event async for event in long_answer]
    assert events[-1].HasField("finish")
    await drain


async def prompt() -> AsyncIterator[GenerateRequest]:
    yield GenerateRequest(header=GenerateHeader(max_tokens=400))
    yield GenerateRequest(message_start=MessageStart(role=language_model_pb2.ROLE_USER))
    yield GenerateRequest(text="Hello")


async def test_a_service_that_was_scaled_to_zero_is_found_as_soon_as_it_is_back(
    start_service: StartService, connect: OpenChannel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """gRPC on its own resolves the name five times within 15 seconds, then every two minutes."""
    monkeypatch.setattr(reconnecting, "_RECONNECT_SECONDS", 0.02)
    running = await start_service("vision_encoder", max_frames=1)
    with NameServer(NAME, []) as names:
        channel = connect(names.target(running.server.port))
        while names.questions < 20:
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await ask(channel, 1)
            assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
            await asyncio.sleep(0.01)
        names.addresses.append("127.0.0.1")
        asked = names.questions
        while True:
            try:
                assert await ask(channel, 1) == {1: 1}
                break
            except grpc.aio.AioRpcError:
                assert names.questions <= asked + 1


async def test_unserved_calls_are_counted_for_the_autoscaler() -> None:
    def unserved() -> float:
        return float(telemetry.UNSERVED.labels("vision_encoder")._value.get())

    services = ModelClients.open(dict.fromkeys(NAMES, "127.0.0.1:9,127.0.0.1:10"))
    before = unserved()
    request = AnswerRequest(messages=(Message(Role.USER, (ImagePart(b"x"),)),), tenant="acme")
    with pytest.raises(Exception, match="cannot be reached"):
        [event async for event in answer(services, request)]
    assert unserved() > before
    await services.close()


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("localhost", "has to be host:port"),
        ("http://localhost:50051", "has to be host:port"),
        ("dns:///localhost", "has to be host:port"),
        ("10.0.0.1:50051,", "has to be host:port"),
        ("10.0.0.1:70000,10.0.0.2:1", "has to be host:port"),
        ("one:50051,two:50051", "a list takes IP addresses"),
        ("10.0.0.1:1,[::1]:1", "a list must use one"),
    ],
)
def test_an_invalid_address_is_reported_at_startup(address: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        check_address(address)


@pytest.mark.parametrize(
    "address",
    ["localhost:50051", "[::1]:50051", "dns:///speech.lyra.svc:50051", "[::1]:1,[::2]:1", "10.0.0.1:1,10.0.0.2:1"],
)
def test_every_form_of_address_is_accepted(address: str) -> None:
    assert check_address(address) == address


class Answers:
    """Clients that keep asking a spoken question about a picture, and count the answers."""

    def __init__(self, services: ModelClients) -> None:
        self.answered = 0
        self.errors: list[Exception] = []
        self._services = services
        sound, picture = ((EXAMPLES / name).read_bytes() for name in ("question.wav", "picture.png"))
        parts = (AudioPart(sound), ImagePart(picture), TextPart("What is it?"))
        self._request = AnswerRequest(
            messages=(Message(Role.USER, parts),),
            tenant="acme",
            sampling=SamplingParams(max_tokens=6),
            speech=SpeechOptions(),
        )

    async def reach(self, answered: int) -> None:
        """Waits for so many answers, or an error."""
        await until(lambda: self.answered >= answered or bool(self.errors))

    async def ask(self, over: asyncio.Event) -> None:
        while not over.is_set():
            try:
                events = [event async for event in answer(self._services, self._request)]
            except Exception as error:
                self.errors.append(error)
                return
            assert isinstance(events[-1], Finished)
            assert any(isinstance(event, AudioChunk) for event in events)
            self.answered += 1


async def test_replacing_every_replica_under_eight_streams_loses_no_answer(
    start_service: StartService,
) -> None:
    """`make test-rolling-restart` does the same with processes, and with a job."""
    replicas = {name: [await start_service(name, grace_seconds=60) for _ in range(2)] for name in SERVICES}
    addresses = {name: ",".join(each.address for each in some) for name, some in replicas.items()}
    answers, over = Answers(services := ModelClients.open(addresses)), asyncio.Event()
    async with asyncio.TaskGroup() as group:
        for _ in range(STREAMS):
            group.create_task(answers.ask(over))
        for name, some in replicas.items():
            for replica in some:
                wanted = answers.answered + 3
                await replica.server.drain()
                await start_service(name, port=replica.server.port)
                await answers.reach(wanted)
        over.set()
    assert answers.errors == []
    assert answers.answered > STREAMS
    await services.close()
