"""GET /version: server, API and model, for clients with a key."""

import tomllib
from pathlib import Path

import httpx

from services.gateway.app import create_app
from services.gateway.http.keys import KeyStore
from services.gateway.settings import GatewaySettings

PROJECT = Path(__file__).parents[3] / "pyproject.toml"


async def test_version_names_server_api_and_model(tmp_path: Path) -> None:
    _, secret = KeyStore(tmp_path).create("acme")
    app = create_app(GatewaySettings(home=tmp_path, preset="tiny", redis_url="redis://127.0.0.1:1/0"))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://gateway") as client:
        refused = await client.get("/version")
        response = await client.get("/version", headers={"Authorization": f"Bearer {secret}"})
    assert refused.status_code == 401
    assert response.json() == {
        "name": "lyra",
        "version": tomllib.loads(PROJECT.read_text())["project"]["version"],
        "api": "v1",
        "model": "lyra-tiny",
    }
