"""Shared fixtures: services and stacks of preset `tiny`, on free ports, always stopped."""

import asyncio
import gc
import importlib
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest
import torch
from hypothesis import settings

from services.operations.local.stack import SERVICES, Stack
from services.shared.rpc.channels import open_channel
from services.shared.rpc.server import ModelServer
from tests.distribution import StackScheduling, position, session_stack, stop_session_stack
from tests.gpu import gpu
from tests.servers import object_store, redis_server, start_redis, start_store, store_server, store_settings

__all__ = ["gpu", "object_store", "redis_server", "start_redis", "start_store", "store_server", "store_settings"]

# Workers of pytest-xdist share the cores, and would inherit the width of the terminal.
if "PYTEST_XDIST_WORKER" in os.environ:
    torch.set_num_threads(1)
    os.environ.pop("COLUMNS", None)

# Examples have no deadline: other tests may keep the machine busy.
settings.register_profile("untimed", settings.default, deadline=None)
settings.load_profile("untimed")


def pytest_itemcollected(item: pytest.Item) -> None:
    """Marks tests that need a session stack, before pytest-xdist reads the marks."""
    if stack := session_stack(item):
        item.add_marker(pytest.mark.xdist_group(stack))


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Sorts by `position`, and keeps the random order otherwise."""
    items.sort(key=position)


def pytest_collection_finish() -> None:
    """Exempts modules and collected tests from garbage collection, which otherwise takes a sixth of the time."""
    gc.collect()
    gc.freeze()


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> None:
    """Stops a session stack after its last test: even idle processes use CPU time."""
    stack = session_stack(item)
    if stack and (nextitem is None or session_stack(nextitem) != stack):
        stop_session_stack(item, stack)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> StackScheduling | None:
    return StackScheduling(config, log) if config.getoption("dist") == "loadgroup" else None


@pytest.fixture(autouse=True)
def seeded() -> None:
    """Random tensors of a test do not depend on the order of tests."""
    torch.manual_seed(0)


SETTINGS = {
    "speech_encoder": "SpeechEncoderSettings",
    "vision_encoder": "VisionEncoderSettings",
    "language_model": "LanguageModelSettings",
    "speech_synthesizer": "SpeechSynthesizerSettings",
}


@dataclass(frozen=True, slots=True)
class RunningService:
    """A service in this process, and an open channel to it."""

    server: ModelServer[Any]
    channel: grpc.aio.Channel

    @property
    def address(self) -> str:
        """host:port."""
        return self.server.address


async def until(holds: Callable[[], bool]) -> None:
    """Polls until `holds()`; for what cannot be awaited, such as a metric."""
    while not holds():  # noqa: ASYNC110
        await asyncio.sleep(0.01)


StartService = Callable[..., Awaitable[RunningService]]
StartStack = Callable[..., Stack]


@pytest.fixture
async def start_service(tmp_path: Path) -> AsyncIterator[StartService]:
    """Starts a service of preset tiny in this process: `await start_service("language_model", max_waiting=0)`."""
    async with AsyncExitStack() as cleanup:

        async def start(name: str, **settings: Any) -> RunningService:
            settings_class = getattr(importlib.import_module(f"services.{name}.settings"), SETTINGS[name])
            definition = importlib.import_module(f"services.{name}.servicer").DEFINITION
            values = {
                "preset": "tiny",
                "port": 0,
                "metrics_port": 0,
                "home": tmp_path,
                "threads": 1,
                "grace_seconds": 5,
            }
            server: ModelServer[Any] = ModelServer(settings_class(**{**values, **settings}), definition)
            cleanup.push_async_callback(server.drain)
            await server.start()
            await server.load()
            channel = open_channel(server.address)
            cleanup.push_async_callback(channel.close, None)
            return RunningService(server, channel)

        yield start


@pytest.fixture
async def service_addresses(start_service: StartService) -> dict[str, str]:
    """host:port of all four services, running in this process."""
    running = await asyncio.gather(*(start_service(name) for name in SERVICES))
    return {name: service.address for name, service in zip(SERVICES, running, strict=True)}


@pytest.fixture
def start_stack(tmp_path: Path) -> Iterator[StartStack]:
    """Starts a stack of preset tiny, one process per part, for a test that disturbs it."""
    with ExitStack() as cleanup:

        def start(**options: Any) -> Stack:
            values: dict[str, Any] = {"preset": "tiny", "home": tmp_path, "threads": 1, "jobs": False}
            return cleanup.enter_context(Stack(**{**values, **options}))

        yield start


@pytest.fixture(scope="session")
def tiny_stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """One stack of preset tiny for all tests that leave it unchanged."""
    with Stack(preset="tiny", home=tmp_path_factory.mktemp("stack"), threads=1, jobs=False) as stack:
        yield stack
