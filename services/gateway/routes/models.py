"""The models there are: one, all three endpoints take it."""

from fastapi import APIRouter, Request

from services.gateway.dependencies import Caller, Settings
from services.gateway.prompt import check_model
from services.gateway.schemas.models import Model, ModelList

router = APIRouter(prefix="/v1/models", tags=["models"])


@router.get("")
async def list_models(request: Request, key: Caller, settings: Settings) -> ModelList:
    """Lists the models."""
    return ModelList(data=[Model(id=settings.model, created=request.app.state.created)])


@router.get("/{model}")
async def get_model(model: str, request: Request, key: Caller, settings: Settings) -> Model:
    """Tells about one model."""
    check_model(model, settings)
    return Model(id=settings.model, created=request.app.state.created)
