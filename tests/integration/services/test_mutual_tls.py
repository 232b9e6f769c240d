"""Mutual TLS between services, with certificates in files that are replaced while both sides run."""

from pathlib import Path

import grpc
import httpx
import pytest
import trustme

from lyra.v1.language_model_pb2 import CountTokensRequest
from lyra.v1.language_model_pb2_grpc import LanguageModelStub
from services.operations.local.process import grpc_is_serving
from services.shared.reloading_files import SecretFileError
from services.shared.rpc.channels import NO_CREDENTIALS, open_channel
from services.shared.rpc.credentials import ClientCredentials
from services.shared.service_errors import Unavailable, from_rpc_error
from tests.callers import Identity, identity
from tests.conftest import RunningService, StartService

LOCAL = "127.0.0.1"


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def of_service(tmp_path: Path, authority: trustme.CA) -> Identity:
    return identity(tmp_path / "service", authority, LOCAL)


@pytest.fixture
async def service(start_service: StartService, of_service: Identity) -> RunningService:
    return await start_service("language_model", **of_service.settings)


async def ask(channel: grpc.aio.Channel) -> int:
    """A call; raises our errors."""
    try:
        return (await LanguageModelStub(channel).CountTokens(CountTokensRequest(text="a"), timeout=60)).tokens
    except grpc.aio.AioRpcError as error:
        raise from_rpc_error("language_model", error) from error


async def count(address: str, caller: ClientCredentials) -> int:
    async with open_channel(address, caller) as channel:
        return await ask(channel)


async def test_a_caller_with_a_certificate_of_the_same_ca_is_served(
    service: RunningService, tmp_path: Path, authority: trustme.CA
) -> None:
    assert await count(service.address, identity(tmp_path / "caller", authority, "gateway").caller()) == 1


async def test_replicas_are_balanced_and_watched_over_tls(
    service: RunningService, tmp_path: Path, authority: trustme.CA
) -> None:
    caller = identity(tmp_path / "caller", authority, "gateway").caller(tls_name=LOCAL)
    assert await count(f"{service.address},{LOCAL}:9", caller) == 1


async def test_a_caller_without_a_certificate_is_not_served(service: RunningService) -> None:
    with pytest.raises(Unavailable):
        await count(service.address, NO_CREDENTIALS)


async def test_a_caller_with_a_certificate_of_another_ca_is_not_served(
    service: RunningService, tmp_path: Path, authority: trustme.CA
) -> None:
    stranger = identity(tmp_path / "stranger", trustme.CA(), LOCAL, trusts=authority)
    with pytest.raises(Unavailable):
        await count(service.address, stranger.caller())


async def test_a_service_with_a_certificate_of_another_ca_is_not_called(
    start_service: StartService, tmp_path: Path, authority: trustme.CA
) -> None:
    impostor = identity(tmp_path / "impostor", trustme.CA(), LOCAL, trusts=authority)
    service = await start_service("language_model", **impostor.settings)
    with pytest.raises(Unavailable):
        await count(service.address, identity(tmp_path / "caller", authority, "gateway").caller())


async def test_a_certificate_must_match_the_address_or_the_configured_name(
    start_service: StartService, tmp_path: Path, authority: trustme.CA
) -> None:
    named = identity(tmp_path / "named", authority, "language-model.lyra.svc")
    service = await start_service("language_model", **named.settings)
    files = identity(tmp_path / "caller", authority, "gateway")
    with pytest.raises(Unavailable):
        await count(service.address, files.caller())
    with pytest.raises(Unavailable):
        await count(service.address, files.caller(tls_name="speech-encoder.lyra.svc"))
    assert await count(service.address, files.caller(tls_name="language-model.lyra.svc")) == 1


async def test_certificates_are_replaced_while_both_sides_run(
    service: RunningService, tmp_path: Path, authority: trustme.CA
) -> None:
    files = identity(tmp_path / "caller", authority, "gateway")
    async with open_channel(service.address, files.caller()) as channel:
        assert await ask(channel) == 1
        after = trustme.CA()
        identity(tmp_path / "service", after, LOCAL)
        identity(tmp_path / "caller", after, "gateway")
        # The open connection may still be used; new ones use the new CA on both sides.
        assert await ask(channel) == 1
        assert await count(service.address, files.caller()) == 1
    with pytest.raises(Unavailable):
        await count(service.address, identity(tmp_path / "outdated", authority, "gateway", trusts=after).caller())


async def test_a_new_certificate_is_not_used_until_its_key_is_there(
    service: RunningService, of_service: Identity, tmp_path: Path, authority: trustme.CA
) -> None:
    caller = identity(tmp_path / "caller", authority, "gateway").caller()
    other = identity(tmp_path / "other", authority, LOCAL)
    of_service.chain.write_bytes(other.chain.read_bytes())
    assert await count(service.address, caller) == 1
    of_service.key.write_bytes(other.key.read_bytes())
    assert await count(service.address, caller) == 1


@pytest.mark.parametrize("harm", ["missing", "another key", "garbage"])
async def test_a_service_does_not_start_with_mismatched_certificate_files(
    start_service: StartService, of_service: Identity, tmp_path: Path, authority: trustme.CA, harm: str
) -> None:
    match harm:
        case "missing":
            of_service.key.unlink()
        case "another key":
            of_service.key.write_bytes(identity(tmp_path / "other", authority, LOCAL).key.read_bytes())
        case _:
            of_service.authority.write_text("no certificate")
    with pytest.raises(SecretFileError, match="not a certificate, its key and a CA"):
        await start_service("language_model", **of_service.settings)


async def test_the_http_probe_needs_no_certificate(service: RunningService) -> None:
    async with httpx.AsyncClient(trust_env=False) as http:
        assert (await http.get(f"http://{LOCAL}:{service.server.metrics_port}/healthz")).status_code == 200


def test_the_local_stack_finds_services_with_certificates_ready(
    tmp_path: Path, authority: trustme.CA, monkeypatch: pytest.MonkeyPatch
) -> None:
    from services.operations.local.process import LocalProcess, ProcessSpec

    files = identity(tmp_path / "service", authority, LOCAL)
    for name, path in files.settings.items():
        monkeypatch.setenv(f"LYRA_{name.upper()}", str(path))
    arguments = ["--preset", "tiny", "--home", str(tmp_path), "--threads", "1"]
    spec = ProcessSpec("vision_encoder", "services.vision_encoder", arguments, grpc_is_serving)
    process = LocalProcess(spec, host=LOCAL, port=0, run_dir=tmp_path, log_dir=tmp_path)
    process.start()
    try:
        process.wait_ready(120.0)
    finally:
        process.stop(10.0)
