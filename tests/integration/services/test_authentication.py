"""Who may call a service: tokens, operators, and what unauthenticated callers see."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from lyra.v1.adapters_pb2 import ListAdaptersRequest, LoadAdapterRequest, UnloadAdapterRequest
from lyra.v1.adapters_pb2_grpc import AdaptersStub
from lyra.v1.language_model_pb2 import CountTokensRequest
from lyra.v1.language_model_pb2_grpc import LanguageModelStub
from services.shared import telemetry
from services.shared.pipeline.clients import NAMES, ModelClients
from services.shared.private_files import PrivateFile
from services.shared.reloading_files import SecretFileError
from services.shared.rpc import authentication
from services.shared.rpc.channels import NO_CREDENTIALS, open_channel
from services.shared.rpc.credentials import ClientCredentials
from services.shared.service_errors import Forbidden, InvalidInput, Unauthenticated, from_rpc_error
from tests.adapters import write_adapter
from tests.callers import raw_call, shows, token
from tests.conftest import RunningService, StartService

SERVING = health_pb2.HealthCheckResponse.SERVING


async def count(address: str, caller: ClientCredentials) -> int:
    """A call; raises our errors."""
    async with open_channel(address, caller) as channel:
        try:
            return (await LanguageModelStub(channel).CountTokens(CountTokensRequest(text="a"), timeout=60)).tokens
        except grpc.aio.AioRpcError as error:
            raise from_rpc_error("language_model", error) from error


@pytest.fixture
async def guarded(start_service: StartService, tmp_path: Path) -> RunningService:
    """A language model that requires the tokens of services and operators."""
    write_adapter(tmp_path / "adapters" / "meetings", "tiny")
    return await start_service(
        "language_model",
        service_token_file=token(tmp_path),
        operator_token_file=token(tmp_path, "operator-token"),
        reflection=True,
    )


async def test_a_caller_with_a_valid_token_is_served(guarded: RunningService, tmp_path: Path) -> None:
    assert await count(guarded.address, shows(token(tmp_path))) == 1


@pytest.mark.parametrize("kind", ["none", "another", "half", "longer"])
async def test_a_caller_without_a_valid_token_is_refused(guarded: RunningService, tmp_path: Path, kind: str) -> None:
    right = token(tmp_path).read_text().strip()
    shown = {"none": None, "another": "x" * 43, "half": right[:32], "longer": right + "x"}[kind]
    caller = NO_CREDENTIALS
    if shown is not None:
        (wrong := tmp_path / "wrong").write_text(shown)
        caller = shows(wrong)
    with pytest.raises(Unauthenticated, match="token"):
        await count(guarded.address, caller)


async def test_an_unauthenticated_caller_is_refused_before_a_message_is_read(guarded: RunningService) -> None:
    async with open_channel(guarded.address) as channel:
        # Nothing is ever sent on this stream, so a unary method would wait for its message.
        call = raw_call(channel, "/lyra.v1.LanguageModel/CountTokens")
        assert await call.code() is grpc.StatusCode.UNAUTHENTICATED


@pytest.mark.parametrize(
    "method",
    [
        "/lyra.v1.LanguageModel/Generate",
        "/lyra.v1.Adapters/ListAdapters",
        "/lyra.v1.LanguageModel/NoSuchMethod",
        "/lyra.v2.Anything/AtAll",
        "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
    ],
)
async def test_every_method_but_health_requires_a_token(guarded: RunningService, method: str) -> None:
    async with open_channel(guarded.address) as channel:
        call = raw_call(channel, method)
        assert await call.code() is grpc.StatusCode.UNAUTHENTICATED


async def test_health_requires_no_token(guarded: RunningService) -> None:
    async with open_channel(guarded.address) as channel:
        answer = await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest())
    assert answer.status == SERVING


async def test_unknown_method_names_do_not_become_metric_labels(guarded: RunningService) -> None:
    refused = telemetry.CALLS_REFUSED.labels("UNAUTHENTICATED")._value.get()
    async with open_channel(guarded.address) as channel:
        await raw_call(channel, "/lyra.v1.LanguageModel/MadeUpByAStranger").code()
    known = {sample.labels["method"] for metric in telemetry.REQUESTS.collect() for sample in metric.samples}
    assert telemetry.CALLS_REFUSED.labels("UNAUTHENTICATED")._value.get() == refused + 1
    assert "/lyra.v1.LanguageModel/MadeUpByAStranger" not in known


async def test_unauthenticated_calls_are_logged_at_most_once_a_second(
    guarded: RunningService, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines: list[str] = []
    monkeypatch.setattr(authentication, "log", SimpleNamespace(warning=lambda event, **fields: lines.append(event)))
    begun = asyncio.get_running_loop().time()
    async with open_channel(guarded.address) as channel:
        for _ in range(50):
            await raw_call(channel, "/lyra.v1.LanguageModel/Generate").code()
    seconds = asyncio.get_running_loop().time() - begun
    assert 1 <= lines.count("call refused") <= seconds + 2


async def test_a_token_can_be_replaced_without_a_failed_call(start_service: StartService, tmp_path: Path) -> None:
    of_service, of_caller = token(tmp_path, "of-service"), tmp_path / "of-caller"
    of_caller.write_text(of_service.read_text())
    service = await start_service("language_model", service_token_file=of_service)
    caller, outdated = shows(of_caller), tmp_path / "outdated"
    old, new = of_service.read_text().strip(), "n" * 43
    outdated.write_text(old)
    for path, lines in [
        (of_service, (old, new)),
        (of_caller, (old, new)),
        (of_caller, (new, old)),
        (of_service, (new, old)),
        (of_service, (new,)),
    ]:
        PrivateFile(path).write("\n".join(lines) + "\n")
        assert await count(service.address, caller) == 1
    with pytest.raises(Unauthenticated):
        await count(service.address, shows(outdated))


async def test_a_token_file_that_is_briefly_missing_or_empty_changes_nothing(
    start_service: StartService, tmp_path: Path
) -> None:
    service = await start_service("language_model", service_token_file=(path := token(tmp_path)))
    (copy := tmp_path / "copy").write_text(path.read_text())
    path.write_text("")
    assert await count(service.address, shows(copy)) == 1
    path.unlink()
    assert await count(service.address, shows(copy)) == 1
    with pytest.raises(Unauthenticated):
        await count(service.address, NO_CREDENTIALS)


@pytest.mark.parametrize("content", [None, "", "\n\n", "short\n", "ä" * 40])
async def test_a_service_does_not_start_with_an_empty_token_file(
    start_service: StartService, tmp_path: Path, content: str | None
) -> None:
    path = tmp_path / "bad"
    if content is not None:
        path.write_text(content)
    with pytest.raises(SecretFileError, match="bad"):
        await start_service("language_model", service_token_file=path)


async def test_pipeline_channels_send_the_token(guarded: RunningService, tmp_path: Path) -> None:
    services = ModelClients.open(dict.fromkeys(NAMES, guarded.address), credentials=shows(token(tmp_path)))
    assert (await services.language_model.CountTokens(CountTokensRequest(text="a"), timeout=60)).tokens == 1
    await services.close()


class Adapters:
    """Calls the adapter service as one caller; raises our errors."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._stub = AdaptersStub(channel)

    async def __call__(self, method: str, request: Any) -> Any:
        try:
            return await getattr(self._stub, method)(request, timeout=60)
        except grpc.aio.AioRpcError as error:
            raise from_rpc_error("language_model", error) from error


@pytest.fixture
async def service_caller(guarded: RunningService, tmp_path: Path) -> AsyncIterator[Adapters]:
    async with open_channel(guarded.address, shows(token(tmp_path))) as channel:
        yield Adapters(channel)


@pytest.fixture
async def operator(guarded: RunningService, tmp_path: Path) -> AsyncIterator[Adapters]:
    async with open_channel(guarded.address, shows(token(tmp_path, "operator-token"))) as channel:
        yield Adapters(channel)


async def test_services_may_list_adapters_and_only_operators_load_and_unload_them(
    service_caller: Adapters, operator: Adapters
) -> None:
    assert "meetings" in (await service_caller("ListAdapters", ListAdaptersRequest())).available
    with pytest.raises(Forbidden, match="operator's token"):
        await service_caller("LoadAdapter", LoadAdapterRequest(name="meetings"))
    await operator("LoadAdapter", LoadAdapterRequest(name="meetings"))
    with pytest.raises(Forbidden, match="operator's token"):
        await service_caller("UnloadAdapter", UnloadAdapterRequest(name="meetings"))
    assert "meetings" in (await service_caller("ListAdapters", ListAdaptersRequest())).resident
    await operator("UnloadAdapter", UnloadAdapterRequest(name="meetings"))


async def test_without_an_operator_token_adapters_cannot_be_loaded(start_service: StartService) -> None:
    service = await start_service("language_model")
    with pytest.raises(Forbidden, match="LYRA_OPERATOR_TOKEN_FILE"):
        await Adapters(service.channel)("LoadAdapter", LoadAdapterRequest(name="meetings"))


@pytest.mark.parametrize(
    "name", ["../adapters/meetings", "..", ".", "/etc", "meetings/../meetings", "meetings\0", "Meetings", "", "a" * 65]
)
async def test_an_adapter_name_is_never_a_path(operator: Adapters, name: str) -> None:
    with pytest.raises(InvalidInput) as refusal:
        await operator("LoadAdapter", LoadAdapterRequest(name=name))
    assert refusal.value.field == "name"
    assert "not an adapter name" in refusal.value.message
