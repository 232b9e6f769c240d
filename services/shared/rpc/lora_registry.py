"""The gRPC service through which the language model and the speech encoder load and unload LoRA adapters at run time.

A client names an adapter, never a path: the name is that of a folder inside the service's own adapters folder.
"""

import asyncio
import re
from collections import Counter
from collections.abc import AsyncIterator, Callable, Collection, Iterable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from lyra.v1 import adapters_pb2, adapters_pb2_grpc
from model_core.adapter_choice import BASE
from services.shared import telemetry
from services.shared.rpc.grpc_types import Context
from services.shared.rpc.threads import WorkThread
from services.shared.service_errors import InvalidInput, ServiceError

log = telemetry.get_logger(__name__)

FULL_NAME = "lyra.v1.Adapters"
MAX_NAME_CHARACTERS = 64
PRELOAD_SETTING = "LYRA_ADAPTERS"

_NAME = re.compile("[a-z0-9_-]+")


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterHost:
    """A model that adapters are loaded into.

    Attributes:
        resident: Returns the names of the adapters that are loaded.
        load: Loads the adapter in a folder under a name; where that fails it raises, and the model is unchanged.
        unload: Removes an adapter from memory.
        files: Names of files; a folder with one of them holds an adapter for this model.
        optional: Whether an adapter may have no file for this model.
    """

    resident: Callable[[], Collection[str]]
    load: Callable[[str, Path], None]
    unload: Callable[[str], None]
    files: tuple[str, ...]
    optional: bool = False


class AdapterUsage:
    """Counts the requests that use each adapter, so that one is unloaded only when none uses it."""

    def __init__(self) -> None:
        self._users: Counter[str] = Counter()
        self._changing: dict[str, asyncio.Event] = {}

    @asynccontextmanager
    async def hold(self, name: str) -> AsyncIterator[None]:
        """Keeps the adapter loaded during the `async with` body. Raises InvalidInput if it is being unloaded."""
        if name in self._changing:
            raise InvalidInput("adapter", f"{name!r} is being unloaded")
        self._users[name] += 1
        try:
            yield
        finally:
            self._users[name] -= 1
            if not self._users[name] and name in self._changing:
                self._changing[name].set()

    @asynccontextmanager
    async def exclusive(self, name: str) -> AsyncIterator[None]:
        """Waits until no request uses the adapter, and refuses new ones during the `async with` body."""
        if name in self._changing:
            raise InvalidInput("name", f"{name!r} is already being loaded or unloaded")
        unused = self._changing[name] = asyncio.Event()
        try:
            if self._users[name]:
                await unused.wait()
            yield
        finally:
            del self._changing[name]


class AdaptersServicer(adapters_pb2_grpc.AdaptersServicer):
    """Lists, loads and unloads the adapters of one model, on the model's own thread.

    Args:
        model: The model.
        folder: Has a folder for each adapter that can be loaded; need not exist.
        thread: The thread that the model runs on.
        exclusive: An async context manager for a name: no request uses that adapter inside it.
    """

    def __init__(
        self,
        model: AdapterHost,
        *,
        folder: Path,
        thread: WorkThread,
        exclusive: Callable[[str], AbstractAsyncContextManager[None]],
    ) -> None:
        self._model = model
        self._folder = folder
        self._thread = thread
        self._exclusive = exclusive

    def preload(self, names: Iterable[str], translate: Callable[[Exception], ServiceError | None]) -> None:
        """Loads adapters before the service takes calls, on the caller's thread.

        Args:
            names: Names of their folders. One without files for this model is skipped if its adapters are optional.
            translate: Maps errors of `model_core` to service errors; returns None for any other.

        Raises:
            InvalidInput: An adapter cannot be loaded; the message names it, and the field is the setting.
        """
        for name in names:
            _checked(name, PRELOAD_SETTING)
            if name in self._model.resident():
                raise InvalidInput(PRELOAD_SETTING, f"{name!r} is one of the preset's own adapters, or named twice")
            if name not in (known := self._names()):
                if self._model.optional and (self._folder / name).is_dir():
                    log.info("adapter has nothing for this service", adapter=name)
                    continue
                there = ", ".join(known) or "none"
                raise InvalidInput(
                    PRELOAD_SETTING, f"{name!r} is not in {self._folder} (LYRA_ADAPTERS_DIR), which has: {there}"
                )
            try:
                self._model.load(name, self._folder / name)
            except Exception as error:
                if (known_error := translate(error)) is None:
                    raise
                raise InvalidInput(PRELOAD_SETTING, f"{name!r} cannot be loaded: {known_error}") from error
            log.info("adapter loaded", adapter=name)

    async def ListAdapters(
        self, request: adapters_pb2.ListAdaptersRequest, context: Context
    ) -> adapters_pb2.ListAdaptersResponse:
        """The adapters that are loaded, and those that can be."""
        resident = self._model.resident()
        available = [name for name in await asyncio.to_thread(self._names) if name not in resident]
        return adapters_pb2.ListAdaptersResponse(resident=resident, available=available)

    async def LoadAdapter(
        self, request: adapters_pb2.LoadAdapterRequest, context: Context
    ) -> adapters_pb2.LoadAdapterResponse:
        """Loads an adapter."""
        name = _checked(request.name)
        if name in self._model.resident():
            raise InvalidInput("name", f"{name!r} is already resident")
        known = await asyncio.to_thread(self._names)
        if name not in known:
            there = ", ".join(known) or "none"
            raise InvalidInput("name", f"{name!r} is not in the adapters folder, which has: {there}")
        async with self._exclusive(name):
            await self._thread.run(lambda: self._model.load(name, self._folder / name))
        log.info("adapter loaded", adapter=name)
        return adapters_pb2.LoadAdapterResponse()

    async def UnloadAdapter(
        self, request: adapters_pb2.UnloadAdapterRequest, context: Context
    ) -> adapters_pb2.UnloadAdapterResponse:
        """Unloads an adapter once no request uses it."""
        name = _checked(request.name)
        if name not in self._model.resident():
            resident = ", ".join(self._model.resident()) or "none"
            raise InvalidInput("name", f"{name!r} is not resident; resident: {resident}")
        async with self._exclusive(name):
            await self._thread.run(lambda: self._model.unload(name))
        log.info("adapter unloaded", adapter=name)
        return adapters_pb2.UnloadAdapterResponse()

    def _names(self) -> list[str]:
        """The adapters in the folder that this model can load."""
        if not self._folder.is_dir():
            return []
        return sorted(
            entry.name
            for entry in self._folder.iterdir()
            if _NAME.fullmatch(entry.name) and any((entry / file).is_file() for file in self._model.files)
        )


def _checked(name: str, field: str = "name") -> str:
    if not _NAME.fullmatch(name) or len(name) > MAX_NAME_CHARACTERS:
        shown = name[:MAX_NAME_CHARACTERS]
        raise InvalidInput(field, f"{shown!r} is not an adapter name: 1 to {MAX_NAME_CHARACTERS} of a-z, 0-9, _ and -")
    if name == BASE:
        raise InvalidInput(field, f"{BASE!r} is reserved: it stands for the model without an adapter")
    return name
