"""The gateway as a separate process, in front of scripted services."""

import asyncio
import json
import resource
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from services.gateway.http.keys import KeyStore
from services.shared.pipeline.clients import NAMES
from tests.integration.gateway.conftest import until
from tests.unit.pipeline.scripted import Script, scripted_services


@dataclass(frozen=True, slots=True)
class GatewayProcess:
    """A running gateway process; `secret` is an API key for it."""

    pid: int
    port: int
    secret: str


@asynccontextmanager
async def gateway_process(home: Path, *arguments: str, max_memory_bytes: int = 0) -> AsyncIterator[GatewayProcess]:
    """Starts it with preset tiny. `max_memory_bytes` limits its address space, to protect the machine."""
    port_file = home / "port"

    async def listens() -> bool:
        assert process.returncode is None
        return await asyncio.to_thread(port_file.exists)

    async with scripted_services(Script()) as address:
        given = ["--preset", "tiny", "--port", "0", "--home", str(home), "--port-file", str(port_file), *arguments]
        for name in NAMES:
            given += [f"--{name.replace('_', '-')}-address", address]
        process = await asyncio.create_subprocess_exec(sys.executable, "-m", "services.gateway", *given)
        try:
            if max_memory_bytes:
                resource.prlimit(process.pid, resource.RLIMIT_AS, (max_memory_bytes, max_memory_bytes))
            await until(listens)
            _, secret = KeyStore(home).create("acme")
            yield GatewayProcess(process.pid, json.loads(port_file.read_text())["port"], secret)
        finally:
            process.terminate()
            await process.wait()
