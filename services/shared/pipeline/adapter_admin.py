"""Adapters at run time, on the language model and the speech encoder together.

For whoever runs the platform, by gRPC inside it: no API key opens this, and no route of the gateway leads here. Loading
and unloading take the operator's token.
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

# A new adapter is there for the encoder first, and leaves the language model first: no request may name half of one.
SERVICES = (SPEECH_ENCODER, LANGUAGE_MODEL)


@dataclass(frozen=True, slots=True)
class AdapterState:
    """Which services have an adapter resident, and which could load it."""

    name: str
    resident: tuple[str, ...]
    available: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterServices:
    """Open channels to the services that have adapters."""

    channels: Mapping[str, grpc.aio.Channel]
    stubs: Mapping[str, "AdaptersAsyncStub"]
    deadlines: Deadlines = field(default_factory=Deadlines)

    @classmethod
    def open(cls, addresses: Mapping[str, str], credentials: ClientCredentials = NO_CREDENTIALS) -> Self:
        """`addresses` of each of SERVICES; a caller with the operator's token. Call it in a running event loop."""
        channels = {name: open_channel(addresses[name], credentials) for name in SERVICES}
        return cls(channels=channels, stubs={name: AdaptersStub(channel) for name, channel in channels.items()})

    async def close(self) -> None:
        await asyncio.gather(*(channel.close(None) for channel in self.channels.values()))

    async def list(self) -> list[AdapterState]:
        """Every adapter that is resident or could be, by name. Raises ServiceError."""
        answers = dict(zip(SERVICES, await asyncio.gather(*map(self._list, SERVICES)), strict=True))
        names = {name for answer in answers.values() for name in (*answer.resident, *answer.available)}
        return [
            AdapterState(
                name,
                resident=tuple(service for service in SERVICES if name in answers[service].resident),
                available=tuple(service for service in SERVICES if name in answers[service].available),
            )
            for name in sorted(names)
        ]

    async def load(self, name: str) -> tuple[str, ...]:
        """Makes an adapter resident wherever it is available. Returns those services.

        The language model has to have it; the speech encoder only where the adapter has a speech projector. Where one
        of the two fails, the other forgets it again.

        Raises:
            InvalidInput: There is no such adapter, it is resident already, or its files do not fit the model.
            ServiceError: A service cannot be reached.
        """
        state = await self._state(name)
        if not state.available:
            where = "is resident already" if state.resident else "is in no folder of adapters"
            raise InvalidInput("name", f"{name!r} {where}")
        if LANGUAGE_MODEL not in (*state.available, *state.resident):
            raise InvalidInput("name", f"{name!r} is not in the language model's folder of adapters")
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
        """Takes an adapter out of memory wherever it is resident, after the requests that run with it.

        Returns those services. Where one fails, calling again does the rest.

        Raises:
            InvalidInput: It is resident nowhere.
            ServiceError: A service cannot be reached.
        """
        state = await self._state(name)
        if not state.resident:
            raise InvalidInput("name", f"{name!r} is not resident")
        for service in reversed(state.resident):
            await self._unload(service, name)
        return state.resident

    async def _state(self, name: str) -> AdapterState:
        missing = AdapterState(name, (), ())
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
