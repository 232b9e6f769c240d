"""Adapters at run time: the gRPC service that the language model and the speech encoder both have.

A client names an adapter and never a path: the name is that of a folder in the service's own folder for adapters.
"""

import asyncio
import re
from collections import Counter
from collections.abc import AsyncIterator, Callable, Collection, Iterable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from lyra.v1 import adapters_pb2, adapters_pb2_grpc
from services.shared import telemetry
from services.shared.rpc.grpc_types import Context
from services.shared.rpc.threads import ModelThread
from services.shared.service_errors import InvalidInput, ServiceError

log = telemetry.get_logger(__name__)

FULL_NAME = "lyra.v1.Adapters"
BASE = "base"  # what requests call the model without an adapter
MAX_NAME_CHARACTERS = 64
STARTING = "LYRA_ADAPTERS"  # the setting that names adapters to load at start

_NAME = re.compile("[a-z0-9_-]+")


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterModel:
    """What a model does with adapters.

    Attributes:
        resident: Names of those that requests may use.
        load: Makes the adapter in a folder resident under a name, or changes nothing and raises.
        unload: Takes it out of memory.
        files: A folder with one of these holds an adapter that this model can load.
        optional: Whether an adapter may have nothing for this model.
    """

    resident: Callable[[], Collection[str]]
    load: Callable[[str, Path], None]
    unload: Callable[[str], None]
    files: tuple[str, ...]
    optional: bool = False


class AdapterUse:
    """Counts who runs with which adapter. One that changes waits for them, and takes nobody in meanwhile."""

    def __init__(self) -> None:
        self._users: Counter[str] = Counter()
        self._changing: dict[str, asyncio.Event] = {}

    @asynccontextmanager
    async def using(self, name: str) -> AsyncIterator[None]:
        """Holds the adapter for the time of the `async with` body. Raises InvalidInput where it is about to leave."""
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
    async def alone(self, name: str) -> AsyncIterator[None]:
        """Begins when nobody uses the adapter any more, and keeps it so for the time of the body."""
        if name in self._changing:
            raise InvalidInput("name", f"{name!r} is being loaded or unloaded already")
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
        model: Whose adapters.
        folder: Has a folder for each adapter that can be loaded; need not exist.
        thread: The model's.
        alone: Begins, for a name, when no request runs with that adapter.
    """

    def __init__(
        self,
        model: AdapterModel,
        *,
        folder: Path,
        thread: ModelThread,
        alone: Callable[[str], AbstractAsyncContextManager[None]],
    ) -> None:
        self._model = model
        self._folder = folder
        self._thread = thread
        self._alone = alone

    def load_at_start(self, names: Iterable[str], translate: Callable[[Exception], ServiceError | None]) -> None:
        """Makes adapters resident before the first call comes, on the caller's thread.

        Args:
            names: Of their folders. One that has nothing for this model is passed over where it may be so.
            translate: Turns errors of the model's layer into ours; None for errors it does not know.

        Raises:
            InvalidInput: The setting and the adapter that cannot be loaded are named.
        """
        for name in names:
            _checked(name, STARTING)
            if name in self._model.resident():
                raise InvalidInput(STARTING, f"{name!r} is one of the preset's own adapters, or is named twice")
            if name not in (known := self._names()):
                if self._model.optional and (self._folder / name).is_dir():
                    log.info("adapter has nothing for this service", adapter=name)
                    continue
                there = ", ".join(known) or "none"
                raise InvalidInput(STARTING, f"{name!r} is not in {self._folder} (LYRA_ADAPTERS_DIR); there: {there}")
            try:
                self._model.load(name, self._folder / name)
            except Exception as error:
                if (known_error := translate(error)) is None:
                    raise
                raise InvalidInput(STARTING, f"{name!r} cannot be loaded: {known_error}") from error
            log.info("adapter loaded", adapter=name)

    async def ListAdapters(
        self, request: adapters_pb2.ListAdaptersRequest, context: Context
    ) -> adapters_pb2.ListAdaptersResponse:
        """What is resident, and what could be."""
        resident = self._model.resident()
        available = [name for name in await asyncio.to_thread(self._names) if name not in resident]
        return adapters_pb2.ListAdaptersResponse(resident=resident, available=available)

    async def LoadAdapter(
        self, request: adapters_pb2.LoadAdapterRequest, context: Context
    ) -> adapters_pb2.LoadAdapterResponse:
        """Makes an adapter resident."""
        name = _checked(request.name)
        if name in self._model.resident():
            raise InvalidInput("name", f"{name!r} is resident already")
        known = await asyncio.to_thread(self._names)
        if name not in known:
            there = ", ".join(known) or "none"
            raise InvalidInput("name", f"{name!r} is not in the folder of adapters; there: {there}")
        async with self._alone(name):
            await self._thread.run(lambda: self._model.load(name, self._folder / name))
        log.info("adapter loaded", adapter=name)
        return adapters_pb2.LoadAdapterResponse()

    async def UnloadAdapter(
        self, request: adapters_pb2.UnloadAdapterRequest, context: Context
    ) -> adapters_pb2.UnloadAdapterResponse:
        """Takes an adapter out of memory, after the requests that run with it."""
        name = _checked(request.name)
        if name not in self._model.resident():
            resident = ", ".join(self._model.resident()) or "none"
            raise InvalidInput("name", f"{name!r} is not resident; resident: {resident}")
        async with self._alone(name):
            await self._thread.run(lambda: self._model.unload(name))
        log.info("adapter unloaded", adapter=name)
        return adapters_pb2.UnloadAdapterResponse()

    def _names(self) -> list[str]:
        """Adapters in the folder."""
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
        raise InvalidInput(
            field, f"{shown!r} is no name of an adapter: 1 to {MAX_NAME_CHARACTERS} of a-z, 0-9, _ and -"
        )
    if name == BASE:
        raise InvalidInput(field, f"{BASE!r} stands for no adapter at all")
    return name
