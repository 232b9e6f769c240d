"""Dependencies of routes, each an annotated type for a parameter."""

from typing import Annotated, cast

from fastapi import Depends, Request

from services.gateway.http.auth import api_key
from services.gateway.http.keys import Key
from services.gateway.jobs.service import JobsApi
from services.gateway.settings import GatewaySettings
from services.shared.media.library import MediaLibrary
from services.shared.pipeline.clients import ModelClients


async def _settings(request: Request) -> GatewaySettings:
    return cast(GatewaySettings, request.app.state.settings)


async def _clients(request: Request) -> ModelClients:
    return cast(ModelClients, request.app.state.clients)


async def _media(request: Request) -> MediaLibrary:
    return cast(MediaLibrary, request.app.state.media)


async def _jobs(request: Request) -> JobsApi:
    return cast(JobsApi, request.app.state.jobs)


ApiKey = Annotated[Key, Depends(api_key)]
Settings = Annotated[GatewaySettings, Depends(_settings)]
Clients = Annotated[ModelClients, Depends(_clients)]
Media = Annotated[MediaLibrary, Depends(_media)]
Jobs = Annotated[JobsApi, Depends(_jobs)]
