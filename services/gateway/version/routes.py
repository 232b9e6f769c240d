"""The version of the server, where other OpenAI-compatible servers report it. It is not public: it needs an API key."""

from fastapi import APIRouter, Request

from services.gateway.dependencies import ApiKey, Settings
from services.gateway.http.error_response import ERROR_RESPONSES
from services.gateway.version.schemas import Version

router = APIRouter(tags=["operations"], responses=ERROR_RESPONSES)


@router.get("/version")
async def get_version(request: Request, key: ApiKey, settings: Settings) -> Version:
    """Reports the versions of the server and its API, and the model."""
    return Version(version=request.app.version, model=settings.model)
