"""A gateway in this process, on a real socket, in front of the services of the tiny stack."""

import asyncio
import io
import socket
import wave
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import openai
import pytest
import uvicorn
from PIL import Image

from services.gateway.app import create_app
from services.gateway.http.keys import Key, KeyStore
from services.gateway.http.server import make_config
from services.gateway.settings import GatewaySettings
from services.operations.local.stack import SERVICES, Stack


@dataclass(frozen=True, slots=True)
class Gateway:
    """A running gateway, and clients with a key."""

    url: str
    secret: str
    key: Key
    keys: KeyStore
    openai: openai.AsyncOpenAI
    http: httpx.AsyncClient

    async def running(self) -> float:
        """Number of running requests, not counting the one that reads the metric."""
        lines = (await self.http.get("/metrics")).text.splitlines()
        ours = [line for line in lines if line.startswith("lyra_requests_running{") and "/v1/" in line]
        return sum(float(line.rsplit(" ", 1)[1]) for line in ours)


async def until(holds: Callable[[], Awaitable[bool]]) -> None:
    """Polls until `holds`, limited by the test's timeout."""
    while not await holds():  # noqa: ASYNC110 (what is asked is another process, or HTTP)
        await asyncio.sleep(0.01)


StartGateway = Callable[..., Awaitable[Gateway]]


class _Server(uvicorn.Server):
    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def has_started(self) -> bool:
        return self.started


@pytest.fixture
async def start_gateway(tmp_path: Path) -> AsyncIterator[StartGateway]:
    """`await start_gateway(addresses, max_running=1)`; addresses: host:port by service."""
    async with AsyncExitStack() as cleanup:

        async def start(addresses: dict[str, str], **settings: Any) -> Gateway:
            values = {"preset": "tiny", "home": tmp_path, **settings}
            values |= {f"{name}_address": address for name, address in addresses.items()}
            gateway_settings = GatewaySettings(**{"grace_seconds": 5, **values})
            listener = socket.create_server(("127.0.0.1", 0))
            server = _Server(make_config(create_app(gateway_settings), gateway_settings))
            serving = asyncio.create_task(server.serve([listener]))
            await until(server.has_started)

            async def stop() -> None:
                server.should_exit = True
                await serving

            cleanup.push_async_callback(stop)
            keys = KeyStore(tmp_path)
            key, secret = keys.create("acme", "test")
            url = f"http://127.0.0.1:{listener.getsockname()[1]}"
            client = openai.AsyncOpenAI(base_url=f"{url}/v1", api_key=secret, max_retries=0)
            cleanup.push_async_callback(client.close)
            http = httpx.AsyncClient(base_url=url, headers={"Authorization": f"Bearer {secret}"}, timeout=60)
            cleanup.push_async_callback(http.aclose)
            return Gateway(url, secret, key, keys, client, http)

        yield start


@pytest.fixture
def tiny_addresses(tiny_stack: Stack, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """host:port of the tiny stack's services; sets their token in the environment."""
    monkeypatch.setenv("LYRA_SERVICE_TOKEN_FILE", str(tiny_stack.service_token_file))
    return {name: tiny_stack.processes[name].address for name in SERVICES}


@pytest.fixture
async def gateway(start_gateway: StartGateway, tiny_addresses: dict[str, str]) -> Gateway:
    """A gateway with default settings, in front of all four services."""
    return await start_gateway(tiny_addresses)


def wav(seconds: float, *, rate: int = 16_000, loudness: float = 3_000.0) -> bytes:
    """A recording of noise, or of silence if loudness is 0."""
    samples = np.random.default_rng(0).normal(scale=loudness, size=int(rate * seconds))
    file = io.BytesIO()
    with wave.open(file, "wb") as writer:
        writer.setnchannels(1)
        writer.setsampwidth(2)
        writer.setframerate(rate)
        writer.writeframes(samples.astype("<i2").tobytes())
    return file.getvalue()


def picture(kind: str = "PNG", size: tuple[int, int] = (64, 48)) -> bytes:
    file = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 255, (*size[::-1], 3), dtype=np.uint8)
    Image.fromarray(noise).save(file, kind)
    return file.getvalue()
