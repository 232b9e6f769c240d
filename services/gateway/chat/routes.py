"""Chat completions: answers a conversation of text, speech, pictures and video with text, or text and speech."""

from typing import Any

from fastapi import APIRouter, Request, Response

from services.gateway.chat.completions import Completion
from services.gateway.chat.request_mapping import to_answer_request
from services.gateway.chat.schemas import ChatCompletion, ChatRequest
from services.gateway.dependencies import ApiKey, Clients, Media, Settings
from services.gateway.http.error_response import ERROR_RESPONSES
from services.gateway.http.json_route import JsonRoute, run_off_loop
from services.gateway.http.route_markers import accepts_media
from services.gateway.http.streaming import StreamedBody, while_connected, with_errors_in_band
from services.gateway.media.stored_media import load_referenced
from services.shared.pipeline.answer import answer

router = APIRouter(prefix="/v1", tags=["chat"], route_class=JsonRoute, responses=ERROR_RESPONSES)

_STREAM: dict[int | str, dict[str, Any]] = {200: {"content": {"text/event-stream": {"schema": {"type": "string"}}}}}


@router.post("/chat/completions", response_model=ChatCompletion, responses=_STREAM)
@accepts_media
async def create_chat_completion(
    body: ChatRequest, request: Request, key: ApiKey, clients: Clients, settings: Settings, media: Media
) -> ChatCompletion | Response:
    """Answers a conversation; with `stream`, as server-sent events."""
    completion = Completion(body, request.state.started)
    stored = await load_referenced(body, key.tenant, media, settings, request.state.body_memory)
    size = request.state.body_memory.size
    answer_request = await run_off_loop(lambda: to_answer_request(body, key.tenant, settings, stored), size)
    body.messages = []  # frees the base64 data while the answer is generated
    events = answer(clients, answer_request)
    if body.stream:
        chunks = with_errors_in_band(completion.stream(events))
        return await StreamedBody.begin(request, chunks, "text/event-stream")
    return await while_connected(request, completion.complete(events))
