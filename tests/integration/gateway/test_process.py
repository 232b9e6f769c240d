"""The gateway as a separate process."""

import asyncio
import json
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from services.gateway.http.keys import KeyStore
from services.shared.pipeline.clients import NAMES
from tests.integration.gateway.conftest import until
from tests.unit.pipeline.scripted import Script, scripted_services


@pytest.fixture
async def script() -> Script:
    return Script()


@pytest.fixture
async def gateway_process(script: Script, tmp_path: Path) -> AsyncIterator[asyncio.subprocess.Process]:
    async with scripted_services(script) as address:
        arguments = ["--preset", "tiny", "--port", "0", "--home", str(tmp_path), "--port-file", str(tmp_path / "port")]
        for name in NAMES:
            arguments += [f"--{name.replace('_', '-')}-address", address]
        process = await asyncio.create_subprocess_exec(sys.executable, "-m", "services.gateway", *arguments)
        yield process
        if process.returncode is None:
            process.kill()
            await process.wait()


async def test_a_running_request_completes_after_sigterm(
    gateway_process: asyncio.subprocess.Process, script: Script, tmp_path: Path
) -> None:
    _, secret = KeyStore(tmp_path).create("acme")
    port_file = tmp_path / "port"

    async def draining() -> bool:
        return await asyncio.to_thread(port_file.exists)

    await until(draining)
    url = f"http://127.0.0.1:{json.loads(port_file.read_text())['port']}"
    body = {"model": "lyra-tiny", "messages": [{"role": "user", "content": "Hi"}], "stream": True}
    script.before_finish.clear()

    async def refuses() -> bool:
        try:
            async with httpx.AsyncClient() as other:
                await other.get(f"{url}/healthz")
        except httpx.ConnectError:
            return True
        return False

    async with (
        httpx.AsyncClient(base_url=url, headers={"Authorization": f"Bearer {secret}"}, timeout=60) as client,
        client.stream("POST", "/v1/chat/completions", json=body) as response,
    ):
        lines = response.aiter_lines()
        await anext(lines)
        gateway_process.send_signal(signal.SIGTERM)
        await until(refuses)
        script.before_finish.set()
        rest = [line async for line in lines if line]
    assert rest[-1] == "data: [DONE]"
    assert await gateway_process.wait() == 0
