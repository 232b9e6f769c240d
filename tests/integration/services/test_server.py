"""What all services have in common: loading, health, draining, limits on calls."""

import asyncio
import socket
import struct
import urllib.request
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import httpx
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from lyra.v1 import language_model_pb2, language_model_pb2_grpc
from lyra.v1.language_model_pb2 import CountTokensRequest, GenerateHeader, GenerateRequest, MessageStart
from services.language_model.servicer import DEFINITION
from services.language_model.settings import LanguageModelSettings
from services.shared.rpc.channels import open_channel
from services.shared.rpc.server import ModelServer
from services.shared.service_errors import Overloaded, Unavailable, from_rpc_error
from tests.conftest import StartService

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


async def prompt(max_tokens: int = 0) -> AsyncIterator[GenerateRequest]:
    yield GenerateRequest(header=GenerateHeader(max_tokens=max_tokens))
    yield GenerateRequest(message_start=MessageStart(role=language_model_pb2.ROLE_USER))
    yield GenerateRequest(text="Hello")


async def health(channel: grpc.aio.Channel, service: str = "") -> int:
    stub = health_pb2_grpc.HealthStub(channel)
    answer = await stub.Check(health_pb2.HealthCheckRequest(service=service))
    return int(answer.status)


async def test_service_is_not_serving_until_its_weights_are_loaded(tmp_path: Path) -> None:
    settings = LanguageModelSettings(preset="tiny", port=0, metrics_port=0, home=tmp_path, threads=1, grace_seconds=1)
    server = ModelServer(settings, DEFINITION)
    await server.start()
    async with open_channel(server.address) as channel:
        assert await health(channel) == NOT_SERVING
        stub = language_model_pb2_grpc.LanguageModelStub(channel)
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await stub.CountTokens(CountTokensRequest(text="a"))
        error = from_rpc_error("language_model", refused.value)
        assert isinstance(error, Unavailable)
        assert "is loading" in error.message
        await server.load()
        assert await health(channel) == SERVING
        assert await health(channel, "lyra.v1.LanguageModel") == SERVING
        assert (await stub.CountTokens(CountTokensRequest(text="a"))).tokens == 1
    await server.drain()


async def test_a_draining_service_finishes_running_calls_and_refuses_new_ones(start_service: StartService) -> None:
    service = await start_service("language_model", grace_seconds=60)
    stub = language_model_pb2_grpc.LanguageModelStub(service.channel)
    answer = aiter(stub.Generate(prompt(max_tokens=400)))
    await anext(answer)
    states = aiter(health_pb2_grpc.HealthStub(service.channel).Watch(health_pb2.HealthCheckRequest()))
    assert (await anext(states)).status == SERVING
    drain = asyncio.create_task(service.server.drain())
    assert (await anext(states)).status == NOT_SERVING
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await stub.CountTokens(CountTokensRequest(text="a"))
    assert isinstance(from_rpc_error("language_model", refused.value), Unavailable)
    events = [event async for event in answer]
    assert events[-1].HasField("finish")
    await drain


async def test_calls_longer_than_the_grace_period_are_cancelled(start_service: StartService) -> None:
    service = await start_service("language_model", grace_seconds=0)
    stub = language_model_pb2_grpc.LanguageModelStub(service.channel)
    answer = aiter(stub.Generate(prompt()))
    await anext(answer)
    await service.server.drain()
    with pytest.raises(grpc.aio.AioRpcError) as ended:
        [event async for event in answer]
    assert isinstance(from_rpc_error("language_model", ended.value), Unavailable)


async def test_calls_beyond_the_limit_are_refused(start_service: StartService) -> None:
    service = await start_service("language_model", max_calls=1)
    stub = language_model_pb2_grpc.LanguageModelStub(service.channel)
    running = stub.Generate(prompt())
    await running.read()
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await stub.CountTokens(CountTokensRequest(text="a"))
    assert isinstance(from_rpc_error("language_model", refused.value), Overloaded)
    assert await health(service.channel) == SERVING
    running.cancel()


async def test_reflection_can_be_enabled(start_service: StartService) -> None:
    service = await start_service("language_model", reflection=True)
    stub = reflection_pb2_grpc.ServerReflectionStub(service.channel)
    requests = [reflection_pb2.ServerReflectionRequest(list_services="")]
    answers = [answer async for answer in stub.ServerReflectionInfo(iter(requests))]
    assert "lyra.v1.LanguageModel" in [one.name for one in answers[0].list_services_response.service]


async def test_reflection_is_disabled_by_default(start_service: StartService) -> None:
    service = await start_service("language_model")
    stub = reflection_pb2_grpc.ServerReflectionStub(service.channel)
    requests = [reflection_pb2.ServerReflectionRequest(list_services="")]
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        [answer async for answer in stub.ServerReflectionInfo(iter(requests))]
    assert refused.value.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_a_service_exports_its_metrics(start_service: StartService) -> None:
    service = await start_service("language_model")
    url = f"http://127.0.0.1:{service.server.metrics_port}/metrics"
    metrics = await asyncio.to_thread(lambda: urllib.request.urlopen(url).read().decode())
    assert "lyra_requests_running" in metrics
    assert 'lyra_requests_waiting{service="language_model"}' in metrics


async def test_the_http_probe_agrees_with_the_health_service(tmp_path: Path) -> None:
    settings = LanguageModelSettings(preset="tiny", port=0, metrics_port=0, home=tmp_path, threads=1, grace_seconds=60)
    server = ModelServer(settings, DEFINITION)
    await server.start()
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{server.metrics_port}", trust_env=False) as http:
        assert (await http.get("/healthz")).status_code == 503
        await server.load()
        assert (await http.get("/healthz")).status_code == 200
        async with open_channel(server.address) as channel:
            answer = aiter(language_model_pb2_grpc.LanguageModelStub(channel).Generate(prompt(max_tokens=400)))
            await anext(answer)
            drain = asyncio.create_task(server.drain())
            while (await http.get("/healthz")).status_code != 503:
                pass  # until draining has begun; the running answer keeps the port open meanwhile
            assert [event async for event in answer][-1].HasField("finish")
        await drain


async def test_a_stalled_health_watcher_does_not_block_others(start_service: StartService) -> None:
    service = await start_service("language_model")
    # A window of 0 bytes: nothing can be sent to this client.
    stuck = await asyncio.to_thread(_watch_without_a_window, service.server.port)
    states = aiter(health_pb2_grpc.HealthStub(service.channel).Watch(health_pb2.HealthCheckRequest()))
    assert (await anext(states)).status == SERVING
    drain = asyncio.create_task(service.server.drain())
    assert (await anext(states)).status == NOT_SERVING
    await drain
    stuck.close()


def _watch_without_a_window(port: int) -> socket.socket:
    """A Watch call of a client whose flow-control window admits no data (RFC 9113)."""
    settings = struct.pack(">HI", 4, 0)
    # Literal header fields without indexing; all strings are shorter than 127 bytes.
    fields = {
        b":method": b"POST",
        b":scheme": b"http",
        b":path": b"/grpc.health.v1.Health/Watch",
        b":authority": b"localhost",
        b"te": b"trailers",
        b"content-type": b"application/grpc",
    }
    block = b"".join(bytes([0, len(key)]) + key + bytes([len(value)]) + value for key, value in fields.items())
    connection = socket.create_connection(("127.0.0.1", port))
    connection.sendall(
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
        + _frame(4, 0, 0, settings)
        + _frame(1, 4, 1, block)
        + _frame(0, 1, 1, bytes(5))
    )
    connection.recv(65_536)  # the server's own SETTINGS: it has read ours by the time it answers the call
    return connection


def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + payload
