"""What routes need, each as one type to annotate a parameter with."""

from typing import Annotated, cast

from fastapi import Depends, Request

from services.gateway.auth import caller
from services.gateway.keys import Key
from services.gateway.settings import GatewaySettings
from services.pipeline.services import Services


async def _settings(request: Request) -> GatewaySettings:
    return cast(GatewaySettings, request.app.state.settings)


async def _services(request: Request) -> Services:
    return cast(Services, request.app.state.services)


Caller = Annotated[Key, Depends(caller)]
Settings = Annotated[GatewaySettings, Depends(_settings)]
ModelServices = Annotated[Services, Depends(_services)]
