"""Fixtures for everybody: services and stacks of the preset `tiny`, on free ports, always ended."""

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

# Workers of pytest-xdist share the cores, and inherit the width of a terminal that is not theirs.
if "PYTEST_XDIST_WORKER" in os.environ:
    torch.set_num_threads(1)
    os.environ.pop("COLUMNS", None)

# No test is timed: another's work may fill the machine.
settings.register_profile("untimed", settings.default, deadline=None)
settings.load_profile("untimed")


def pytest_itemcollected(item: pytest.Item) -> None:
    """Marks what needs a session's stack, before pytest-xdist reads the marks."""
    if stack := session_stack(item):
        item.add_marker(pytest.mark.xdist_group(stack))


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keeps the random order except for what `position` says."""
    items.sort(key=position)


def pytest_collection_finish() -> None:
    """Exempts modules and collected tests from garbage collection, which would otherwise take a sixth of the time."""
    gc.collect()
    gc.freeze()


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> None:
    """Stops a session's stack behind its last test: idle, its processes would still take a part of a core."""
    stack = session_stack(item)
    if stack and (nextitem is None or session_stack(nextitem) != stack):
        stop_session_stack(item, stack)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> StackScheduling | None:
    return StackScheduling(config, log) if config.getoption("dist") == "loadgroup" else None


@pytest.fixture(autouse=True)
def seeded() -> None:
    """A test draws the same tensors in whatever order the tests run."""
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
    """Returns when `holds()`; for what can only be looked at, such as a metric."""
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
    """Starts a whole stack of preset tiny, each part a process of its own, for a test that does harm to it."""
    with ExitStack() as cleanup:

        def start(**options: Any) -> Stack:
            values: dict[str, Any] = {"preset": "tiny", "home": tmp_path, "threads": 1, "jobs": False}
            return cleanup.enter_context(Stack(**{**values, **options}))

        yield start


@pytest.fixture(scope="session")
def tiny_stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """One stack of preset tiny for all tests that leave it as it was."""
    with Stack(preset="tiny", home=tmp_path_factory.mktemp("stack"), threads=1, jobs=False) as stack:
        yield stack
