import asyncio
from datetime import UTC, datetime

import httpx
import openai
import pytest

from tests.integration.gateway.conftest import Gateway, StartGateway

CHAT = {"model": "lyra-tiny", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 1}


@pytest.mark.parametrize(
    "header", [{}, {"Authorization": "Bearer"}, {"Authorization": "Basic x"}, {"Authorization": "Bearer lyra_wrong"}]
)
@pytest.mark.parametrize(
    ("method", "path"),
    [("POST", "/v1/chat/completions"), ("GET", "/v1/models"), ("POST", "/v1/audio/speech"), ("GET", "/nowhere")],
)
async def test_without_a_valid_key_nothing_is_revealed(
    gateway: Gateway, header: dict[str, str], method: str, path: str
) -> None:
    async with httpx.AsyncClient(base_url=gateway.url) as client:
        response = await client.request(method, path, headers=header, json=CHAT if method == "POST" else None)
    assert response.status_code == 401
    assert response.headers["www-authenticate"] == "Bearer"
    assert set(response.json()["error"]) == {"message", "type", "param", "code"}


async def test_the_openai_client_recognizes_an_invalid_key(gateway: Gateway) -> None:
    with pytest.raises(openai.AuthenticationError) as caught:
        await gateway.openai.with_options(api_key="lyra_wrong").models.list()
    assert caught.value.code == "invalid_api_key"


async def test_a_revoked_key_is_refused_by_the_running_gateway(gateway: Gateway) -> None:
    assert (await gateway.openai.models.list()).data[0].id == "lyra-tiny"
    gateway.keys.revoke(gateway.key.id)
    with pytest.raises(openai.AuthenticationError):
        await gateway.openai.models.list()
    _, secret = gateway.keys.create("acme")
    assert (await gateway.openai.with_options(api_key=secret).models.list()).data


async def test_an_expired_key_is_refused_with_its_own_error_code(gateway: Gateway) -> None:
    _, secret = gateway.keys.create("acme", expires_at=datetime(2099, 1, 1, tzinfo=UTC))
    client = gateway.openai.with_options(api_key=secret)
    assert (await client.models.list()).data
    gateway.keys.path.write_text(gateway.keys.path.read_text().replace("2099", "2020"))
    with pytest.raises(openai.AuthenticationError) as caught:
        await client.models.list()
    assert caught.value.code == "expired_api_key"


async def test_a_damaged_key_file_refuses_every_request(gateway: Gateway) -> None:
    gateway.keys.path.write_text("{")
    response = await gateway.http.get("/v1/models")
    assert response.status_code == 503
    assert response.json()["error"]["type"] == "server_error"


async def test_health_metrics_and_docs_are_open(gateway: Gateway) -> None:
    async with httpx.AsyncClient(base_url=gateway.url) as client:
        assert (await client.get("/healthz")).json() == {"status": "ok"}
        assert (await client.get("/readyz")).json()["status"] == "ready"
        assert "lyra_requests_running" in (await client.get("/metrics")).text
        assert (await client.get("/docs")).status_code == 200
        document = (await client.get("/openapi.json")).json()
    operations = [operation for path in document["paths"].values() for operation in path.values()]
    assert all("422" not in operation["responses"] for operation in operations)
    assert document["paths"]["/v1/chat/completions"]["post"]["security"]


async def test_docs_can_be_closed(start_gateway: StartGateway, tiny_addresses: dict[str, str]) -> None:
    gateway = await start_gateway(tiny_addresses, docs=False)
    async with httpx.AsyncClient(base_url=gateway.url) as client:
        assert (await client.get("/openapi.json")).status_code == 401
    assert (await gateway.http.get("/openapi.json")).status_code == 404


async def test_the_served_model_is_listed_and_another_is_not_found(gateway: Gateway) -> None:
    assert (await gateway.openai.models.retrieve("lyra-tiny")).owned_by == "lyra"
    with pytest.raises(openai.NotFoundError) as caught:
        await gateway.openai.models.retrieve("gpt-5")
    assert caught.value.code == "model_not_found"


@pytest.mark.parametrize(
    ("method", "path", "status"), [("GET", "/nowhere", 404), ("DELETE", "/v1/models", 405), ("PUT", "/healthz", 405)]
)
async def test_unknown_paths_and_methods_have_the_error_schema(
    gateway: Gateway, method: str, path: str, status: int
) -> None:
    response = await gateway.http.request(method, path)
    assert response.status_code == status
    assert response.json()["error"]["type"] == "invalid_request_error"


async def test_every_response_has_a_request_id(gateway: Gateway) -> None:
    first, second = await asyncio.gather(gateway.http.get("/v1/models"), gateway.http.get("/nowhere"))
    assert first.headers["x-request-id"] != second.headers["x-request-id"]
