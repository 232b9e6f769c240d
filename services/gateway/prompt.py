"""From the API's shapes to what the pipeline asks for: base64 and data URIs are opened here."""

import base64
import binascii

from services.gateway.errors import ApiError, bad_request
from services.gateway.schemas.chat import (
    AssistantMessage,
    AudioContent,
    AudioOutput,
    ChatRequest,
    ContentPart,
    Message,
    TextContent,
    VoiceId,
)
from services.gateway.settings import GatewaySettings
from services.pipeline.messages import (
    AnswerRequest,
    AudioPart,
    ImagePart,
    Part,
    Role,
    SpeechOptions,
    TextPart,
)
from services.pipeline.messages import Message as PromptMessage

_ROLES = {"system": Role.SYSTEM, "developer": Role.SYSTEM, "user": Role.USER, "assistant": Role.ASSISTANT}
_IMAGE_TYPES = ("image/jpeg", "image/png", "image/webp")
_SEED_MASK = 2**64 - 1


def to_answer_request(request: ChatRequest, tenant: str, settings: GatewaySettings) -> AnswerRequest:
    """Checks what the schema cannot, and decodes all media. Raises ApiError naming field and limit."""
    check_model(request.model, settings)
    _check_options(request)
    if len(request.messages) > settings.max_messages:
        count, limit = len(request.messages), settings.max_messages
        raise bad_request("messages", f"{count} messages are over the limit of {limit}", "too_many_messages")
    messages = tuple(_message(message, f"messages[{row}]", settings) for row, message in enumerate(request.messages))
    _check_totals(messages, settings)
    newer = request.max_completion_tokens is not None
    return AnswerRequest(
        messages=messages,
        tenant=tenant,
        max_tokens=request.max_completion_tokens or request.max_tokens or 0,
        temperature=request.temperature or 0.0,
        top_p=1.0 if request.top_p is None else request.top_p,
        seed=None if request.seed is None else request.seed & _SEED_MASK,
        stop=tuple(request.stops),
        speech=_speech(request.audio) if request.wants_audio else None,
        paths={"max_tokens": "max_completion_tokens" if newer else "max_tokens", "voice": "audio.voice"},
    )


def check_model(model: str, settings: GatewaySettings) -> None:
    """There is one model; any other name is a 404, as with OpenAI."""
    if model != settings.model:
        text = f"model: {model[:100]!r} does not exist; this server has {settings.model!r}"
        raise ApiError(404, text, param="model", code="model_not_found")


def voice_name(voice: str | VoiceId) -> str:
    return voice if isinstance(voice, str) else voice.id


def _check_options(request: ChatRequest) -> None:
    if request.modalities and "text" not in request.modalities:
        raise bad_request("modalities", "has to be ['text'] or ['text', 'audio']: speech always comes with its text")
    if request.audio is not None and not request.wants_audio:
        raise bad_request("audio", "is only for modalities ['text', 'audio']")
    if request.stream_options is not None and not request.stream:
        raise bad_request("stream_options", "is only for stream: true")
    if request.max_tokens and request.max_completion_tokens and request.max_tokens != request.max_completion_tokens:
        raise bad_request("max_tokens", "contradicts max_completion_tokens; send one of them")


def _speech(audio: AudioOutput | None) -> SpeechOptions:
    return SpeechOptions(voice_name(audio.voice) if audio else "")


def _message(message: Message, path: str, settings: GatewaySettings) -> PromptMessage:
    content = message.content
    if content is None:
        assert isinstance(message, AssistantMessage)
        assert message.audio is not None
        content = message.audio.transcript or ""
    role = _ROLES[message.role]
    if isinstance(content, str):
        return PromptMessage(role, (TextPart(content),))
    if len(content) > settings.max_parts:
        text = f"{len(content)} parts are over the limit of {settings.max_parts} in one message"
        raise bad_request(f"{path}.content", text, "too_many_parts")
    return PromptMessage(role, tuple(_part(part, f"{path}.content[{column}]") for column, part in enumerate(content)))


def _part(part: ContentPart, path: str) -> Part:
    match part:
        case TextContent():
            return TextPart(part.text)
        case AudioContent():
            path = f"{path}.input_audio.data"
            return AudioPart(_from_base64(part.input_audio.data, path), path)
        case _:
            path = f"{path}.image_url.url"
            return _image(part.image_url.url, path)


def _image(url: str, path: str) -> ImagePart:
    head, comma, data = url.partition(",")
    if url[:5].lower() != "data:":
        text = "only data URIs are taken (data:image/png;base64,...); web addresses are not fetched"
        raise bad_request(path, text, "invalid_image_url")
    media_type, _, encoding = head[len("data:") :].partition(";")
    if media_type.lower() not in _IMAGE_TYPES:
        text = f"{media_type[:60]!r} is not one of {', '.join(_IMAGE_TYPES)}"
        raise bad_request(path, text, "invalid_image_format")
    if encoding.lower() != "base64" or not comma:
        raise bad_request(path, "the data URI has to be in base64: data:image/png;base64,...", "invalid_image_url")
    return ImagePart(_from_base64(data, path), media_type.lower(), path)


def _from_base64(text: str, path: str) -> bytes:
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise bad_request(path, "is not valid base64", "invalid_base64") from None
    if not data:
        raise bad_request(path, "is empty: 0 bytes", "empty_file")
    return data


def _check_totals(messages: tuple[PromptMessage, ...], settings: GatewaySettings) -> None:
    parts = [part for message in messages for part in message.parts]
    characters = sum(len(part.text) for part in parts if isinstance(part, TextPart))
    media = sum(not isinstance(part, TextPart) for part in parts)
    if characters > settings.max_text_characters:
        text = f"{characters:,} characters of text are over the limit of {settings.max_text_characters:,}"
        raise bad_request("messages", text, "text_too_long")
    if media > settings.max_media:
        text = f"{media} recordings and pictures are over the limit of {settings.max_media} in one request"
        raise bad_request("messages", text, "too_many_media")
