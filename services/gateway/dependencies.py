"""What routes need, each as one type to annotate a parameter with."""

from typing import Annotated, cast

from fastapi import Depends, Request

from services.gateway.http.auth import caller
from services.gateway.http.keys import Key
from services.gateway.jobs.service import JobsApi
from services.gateway.settings import GatewaySettings
from services.shared.media.library import MediaLibrary
from services.shared.pipeline.clients import ModelClients


async def _settings(request: Request) -> GatewaySettings:
    return cast(GatewaySettings, request.app.state.settings)


async def _services(request: Request) -> ModelClients:
    return cast(ModelClients, request.app.state.services)


async def _media(request: Request) -> MediaLibrary:
    return cast(MediaLibrary, request.app.state.media)


async def _jobs(request: Request) -> JobsApi:
    return cast(JobsApi, request.app.state.jobs)


Caller = Annotated[Key, Depends(caller)]
Settings = Annotated[GatewaySettings, Depends(_settings)]
ModelServices = Annotated[ModelClients, Depends(_services)]
Media = Annotated[MediaLibrary, Depends(_media)]
Jobs = Annotated[JobsApi, Depends(_jobs)]
