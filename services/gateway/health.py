"""For who runs this: is it alive, is it ready, what does it measure. Open to all."""

from typing import Literal

from fastapi import APIRouter, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from pydantic import BaseModel

from services.gateway.dependencies import ModelServices, Settings

router = APIRouter(tags=["operations"])


class Health(BaseModel):
    status: Literal["ok"] = "ok"


class Readiness(BaseModel):
    status: Literal["ready", "not ready"]
    services: dict[str, str]


@router.get("/healthz")
async def healthz() -> Health:
    """This process answers."""
    return Health()


@router.get("/readyz", responses={503: {"model": Readiness}})
async def readyz(services: ModelServices, settings: Settings, response: Response) -> Readiness:
    """All four services are serving, but for those that may be scaled to zero."""
    states = await services.health()
    ready = all(state == "SERVING" for name, state in states.items() if name not in settings.dispensable)
    response.status_code = 200 if ready else 503
    return Readiness(status="ready" if ready else "not ready", services=states)


@router.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}})
async def metrics() -> Response:
    """Prometheus metrics of this process."""
    return Response(generate_latest(), media_type=CONTENT_TYPE_LATEST)
