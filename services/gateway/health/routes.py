"""Liveness, readiness and metrics, for orchestrators and Prometheus. No API key is needed."""

from fastapi import APIRouter, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from services.gateway.dependencies import Clients, Settings
from services.gateway.health.schemas import Health, Readiness
from services.gateway.http.route_markers import public

router = APIRouter(tags=["operations"])


@router.get("/healthz")
@public
async def healthz() -> Health:
    """Liveness: the process answers."""
    return Health()


@router.get("/readyz", responses={503: {"model": Readiness}})
@public
async def readyz(clients: Clients, settings: Settings, response: Response) -> Readiness:
    """Readiness: all model services are serving, except those that may be scaled to zero."""
    states = await clients.health()
    ready = all(state == "SERVING" for name, state in states.items() if name not in settings.optional_services)
    response.status_code = 200 if ready else 503
    return Readiness(status="ready" if ready else "not ready", services=states)


@router.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}})
@public
async def metrics() -> Response:
    """Prometheus metrics of this process."""
    return Response(generate_latest(), media_type=CONTENT_TYPE_LATEST)
