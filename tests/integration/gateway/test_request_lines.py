"""The gateway's request log: a separate process, real sockets, JSON lines."""

import asyncio
import json
import re
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from services.gateway.http.keys import Key, KeyStore
from services.shared.pipeline.clients import NAMES
from tests.integration.gateway.conftest import until
from tests.unit.pipeline.scripted import Script, scripted_services

SETTINGS = ("--max-body-bytes", "1024", "--rate-limit-per-key", "20/hour", "--trusted-proxies", "127.0.0.1")
# Nothing listens there, so that tests do not share counts.
NO_REDIS = ("--redis-url", "redis://127.0.0.1:1/0")
CHAT = {"model": "lyra-tiny", "messages": [{"role": "user", "content": "Hi"}], "stream": True}


@dataclass(frozen=True, slots=True)
class LoggingGateway:
    url: str
    log: Path
    keys: KeyStore
    key: Key
    secret: str
    script: Script

    def client(self, secret: str | None = None, address: str = "192.0.2.7") -> httpx.AsyncClient:
        secret = self.secret if secret is None else secret
        headers = {"X-Forwarded-For": address} | ({"Authorization": f"Bearer {secret}"} if secret else {})
        return httpx.AsyncClient(base_url=self.url, headers=headers, timeout=60)

    async def line(self, request_id: str) -> dict[str, Any]:
        """The log line of the request, once it is written."""
        found: list[dict[str, Any]] = []

        async def there() -> bool:
            lines = [json.loads(each) for each in (await asyncio.to_thread(self.log.read_text)).splitlines()]
            found[:] = [
                each for each in lines if each["event"] == "request ended" and each.get("request") == request_id
            ]
            return bool(found)

        await until(there)
        assert len(found) == 1
        return found[0]

    async def raw(self, sent: bytes) -> None:
        """Sends bytes and disconnects."""
        _, writer = await asyncio.open_connection("127.0.0.1", httpx.URL(self.url).port)
        writer.write(sent)
        await writer.drain()
        writer.close()
        await writer.wait_closed()


@pytest.fixture
def settings() -> tuple[str, ...]:
    return SETTINGS


@pytest.fixture
async def gateway(tmp_path: Path, settings: tuple[str, ...]) -> AsyncIterator[LoggingGateway]:
    script, port_file, log = Script(), tmp_path / "port", tmp_path / "log"
    keys = KeyStore(tmp_path)
    key, secret = keys.create("acme")
    async with scripted_services(script) as address:
        arguments = ["--preset", "tiny", "--port", "0", "--home", str(tmp_path), "--port-file", str(port_file)]
        for name in NAMES:
            arguments += [f"--{name.replace('_', '-')}-address", address]
        with log.open("wb") as stderr:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "services.gateway", "--log-format", "json"),
                *(*arguments, *settings, *NO_REDIS),
                stderr=stderr,
            )
        try:

            async def listens() -> bool:
                return await asyncio.to_thread(port_file.exists)

            await until(listens)
            url = f"http://127.0.0.1:{json.loads(port_file.read_text())['port']}"
            yield LoggingGateway(url, log, keys, key, secret, script)
        finally:
            process.kill()
            await process.wait()


async def test_every_response_is_logged_with_key_and_address(gateway: LoggingGateway) -> None:
    revoked, revoked_secret = gateway.keys.create("acme")
    gateway.keys.revoke(revoked.id)
    good, tenant = gateway.key.id, "acme"
    cases = [
        ("GET", "/v1/models", gateway.secret, 200, "/v1/models", good, tenant),
        ("GET", "/v1/models/gpt-5", gateway.secret, 404, "/v1/models/{id}", good, tenant),
        ("GET", "/no%0Awhere?key=hidden", gateway.secret, 404, "/no%0Awhere", good, tenant),
        ("GET", "/v1/models", "", 401, "/v1/models", "-", "-"),
        ("GET", "/v1/models", "lyra_wrong", 401, "/v1/models", "-", "-"),
        ("GET", "/nowhere", "lyra_wrong", 401, "/nowhere", "-", "-"),
        ("GET", "/v1/models", revoked_secret, 401, "/v1/models", revoked.id, "-"),
        ("POST", "/v1/chat/completions", gateway.secret, 413, "/v1/chat/completions", good, tenant),
    ]
    for method, path, secret, status, *told in cases:
        async with gateway.client(secret) as http:
            body = b"x" * 2000 if method == "POST" else None
            response = await http.request(method, path, content=body, headers={"user-agent": "x\tkey=y"})
        assert response.status_code == status
        line = await gateway.line(response.headers["x-request-id"])
        assert [line["method"], line["status"], line["address"], line["aborted"]] == [
            method,
            status,
            "192.0.2.7",
            False,
        ]
        assert [line["path"], line["key"], line["tenant"]] == told
        assert line["seconds"] >= 0
    written = gateway.log.read_text()
    assert "hidden" not in written
    assert not [each for each in (gateway.secret, revoked_secret) if each in written]


async def test_a_429_is_logged_too(gateway: LoggingGateway) -> None:
    async with gateway.client() as http:
        answers = [await http.get("/v1/models") for _ in range(21)]
    assert [each.status_code for each in answers] == [200] * 20 + [429]
    line = await gateway.line(answers[-1].headers["x-request-id"])
    assert (line["status"], line["key"], line["address"]) == (429, gateway.key.id, "192.0.2.7")


@pytest.mark.parametrize("settings", [()])
async def test_by_default_no_proxy_is_trusted_not_even_on_localhost(gateway: LoggingGateway) -> None:
    async with gateway.client() as http:
        response = await http.get("/v1/models")
    assert (await gateway.line(response.headers["x-request-id"]))["address"] == "127.0.0.1"


async def test_a_disconnected_response_is_logged_as_aborted(gateway: LoggingGateway) -> None:
    gateway.script.before_finish.clear()
    async with gateway.client() as http, http.stream("POST", "/v1/chat/completions", json=CHAT) as response:
        await anext(response.aiter_lines())
    line = await gateway.line(response.headers["x-request-id"])
    assert (line["status"], line["aborted"], line["key"]) == (200, True, gateway.key.id)


async def test_a_disconnected_request_is_logged_as_aborted(gateway: LoggingGateway) -> None:
    head = [
        "POST /v1/chat/completions HTTP/1.1",
        "Host: gateway",
        f"Authorization: Bearer {gateway.secret}",
        "X-Request-Id: half-a-request",
        "Content-Type: application/json",
        "Content-Length: 100",
    ]
    await gateway.raw("\r\n".join([*head, "", "half"]).encode())
    line = await gateway.line("half-a-request")
    assert (line["status"], line["aborted"], line["address"]) == (499, True, "127.0.0.1")


async def test_a_client_cannot_forge_log_lines(gateway: LoggingGateway) -> None:
    escape = "\u001b[2J"
    head = [
        f"GET /{escape}?a HTTP/1.1",
        "Host: gateway",
        "X-Request-Id: mine",
        f"X-Forwarded-For: {escape} key=key_of_another",
    ]
    await gateway.raw("\r\n".join([*head, "", ""]).encode())
    async with gateway.client(address="198.51.100.1, 192.0.2.8") as http:
        response = await http.get("/%0D%0A%7B%22event%22:%22request%20ended%22%7D")
    line = await gateway.line(response.headers["x-request-id"])
    assert line["address"] == "192.0.2.8"
    assert re.fullmatch(r"[!-~]+", line["path"])
    written = await asyncio.to_thread(gateway.log.read_bytes)
    assert b"\x1b" not in written
    assert b"key_of_another" not in written
    assert all(json.loads(each) for each in written.splitlines())
