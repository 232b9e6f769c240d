"""The models of this server: there is one, for all endpoints."""

from fastapi import APIRouter, Request

from services.gateway.chat.request_mapping import check_model
from services.gateway.dependencies import ApiKey, Clients, Settings
from services.gateway.http.error_response import ERROR_RESPONSES
from services.gateway.models.schemas import LyraDetails, Model, ModelDetails, ModelList
from services.shared.pipeline.describe import describe_language_model

router = APIRouter(prefix="/v1/models", tags=["models"], responses=ERROR_RESPONSES)


@router.get("")
async def list_models(request: Request, key: ApiKey, settings: Settings) -> ModelList:
    """Lists the models."""
    return ModelList(data=[Model(id=settings.model, created=request.app.state.created)])


@router.get("/{model}")
async def get_model(model: str, request: Request, key: ApiKey, clients: Clients, settings: Settings) -> ModelDetails:
    """Describes a model, including the limits of a request's `lyra` options."""
    check_model(model, settings)
    description = await describe_language_model(clients, key.tenant, fresh=True)
    return ModelDetails(
        id=settings.model,
        created=request.app.state.created,
        lyra=LyraDetails(
            context_tokens=description.context_tokens,
            adapters=list(description.model.adapters),
            max_blocks=description.max_blocks,
            keep_rate=round(description.keep_rate, 6),  # of the wire's 32 bits
            blocks=description.blocks,
        ),
    )
