"""Loads and unloads LoRA adapters at run time, on the language model and the speech encoder together.

For operators, over gRPC inside the platform: no API key and no route of the gateway gives access. Loading and unloading
require the operator's token.
"""

import asyncio
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Self

import grpc

from lyra.v1.adapters_pb2 import (
    ListAdaptersRequest,
    ListAdaptersResponse,
    LoadAdapterRequest,
    UnloadAdapterRequest,
)
from lyra.v1.adapters_pb2_grpc import AdaptersStub
from services.shared.pipeline.calls import ask
from services.shared.pipeline.clients import LANGUAGE_MODEL, SPEECH_ENCODER, Deadlines
from services.shared.rpc.channels import NO_CREDENTIALS, open_channel
from services.shared.rpc.credentials import ClientCredentials
from services.shared.service_errors import InvalidInput, ServiceError

if TYPE_CHECKING:
    from lyra.v1.adapters_pb2_grpc import AdaptersAsyncStub

# Loaded into the encoder first and unloaded from the language model first: a request may never name half an adapter.
SERVICES = (SPEECH_ENCODER, LANGUAGE_MODEL)


@dataclass(frozen=True, slots=True)
class AdapterStatus:
    """The services that have an adapter resident, and those that can load it."""

    name: str
    resident: tuple[str, ...]
    available: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterClients:
    """Clients of the services that have adapters."""

    channels: Mapping[str, grpc.aio.Channel]
    stubs: Mapping[str, "AdaptersAsyncStub"]
    deadlines: Deadlines = field(default_factory=Deadlines)

    @classmethod
    def open(cls, addresses: Mapping[str, str], credentials: ClientCredentials = NO_CREDENTIALS) -> Self:
        """Clients of the services at `addresses`, one for each of SERVICES. Call it in a running event loop.

        `credentials` need the operator's token to load and unload.
        """
        channels = {name: open_channel(addresses[name], credentials) for name in SERVICES}
        return cls(channels=channels, stubs={name: AdaptersStub(channel) for name, channel in channels.items()})

    async def close(self) -> None:
        """Closes the channels."""
        await asyncio.gather(*(channel.close(None) for channel in self.channels.values()))

    async def list(self) -> list[AdapterStatus]:
        """Every adapter that is resident or can be loaded, sorted by name. Raises ServiceError."""
        answers = dict(zip(SERVICES, await asyncio.gather(*map(self._list, SERVICES)), strict=True))
        names = {name for answer in answers.values() for name in (*answer.resident, *answer.available)}
        return [
            AdapterStatus(
                name,
                resident=tuple(service for service in SERVICES if name in answers[service].resident),
                available=tuple(service for service in SERVICES if name in answers[service].available),
            )
            for name in sorted(names)
        ]

    async def load(self, name: str) -> tuple[str, ...]:
        """Loads an adapter into every service that has its files, and returns their names.

        The language model must have them; the speech encoder has them if the adapter has a speech projector. If one
        of the two fails, the adapter is unloaded from the other.

        Raises:
            InvalidInput: There is no such adapter, it is already resident, or its files do not fit the model.
            ServiceError: A service cannot be reached.
        """
        state = await self._state(name)
        if not state.available:
            where = "is already resident" if state.resident else "is in no adapters folder"
            raise InvalidInput("name", f"{name!r} {where}")
        if LANGUAGE_MODEL not in (*state.available, *state.resident):
            raise InvalidInput("name", f"{name!r} is not in the language model's adapters folder")
        loaded: list[str] = []
        try:
            for service in state.available:
                await self._load(service, name)
                loaded.append(service)
        except BaseException:
            for service in loaded:
                with suppress(ServiceError):  # what made the load fail is what the caller has to know
                    await self._unload(service, name)
            raise
        return state.available

    async def unload(self, name: str) -> tuple[str, ...]:
        """Unloads an adapter from every service where it is resident, once no request uses it.

        Returns the names of those services. If one fails, call it again to unload the rest.

        Raises:
            InvalidInput: It is not resident anywhere.
            ServiceError: A service cannot be reached.
        """
        state = await self._state(name)
        if not state.resident:
            raise InvalidInput("name", f"{name!r} is not resident")
        for service in reversed(state.resident):
            await self._unload(service, name)
        return state.resident

    async def _state(self, name: str) -> AdapterStatus:
        missing = AdapterStatus(name, (), ())
        return next((state for state in await self.list() if state.name == name), missing)

    async def _list(self, service: str) -> ListAdaptersResponse:
        method, seconds = self.stubs[service].ListAdapters, self.deadlines.describe
        return await ask(service, method, ListAdaptersRequest(), seconds=seconds)

    async def _load(self, service: str, name: str) -> None:
        method, seconds = self.stubs[service].LoadAdapter, self.deadlines.adapter
        await ask(service, method, LoadAdapterRequest(name=name), seconds=seconds)

    async def _unload(self, service: str, name: str) -> None:
        method, seconds = self.stubs[service].UnloadAdapter, self.deadlines.adapter
        await ask(service, method, UnloadAdapterRequest(name=name), seconds=seconds)
