"""Maps a chat request to the pipeline's request; decodes base64 and data URIs."""

import base64
import binascii
import re
from collections.abc import Mapping, Sequence
from types import MappingProxyType

from model_core.engine.sampling_params import SAMPLING_FIELDS, SamplingParams
from model_core.errors import InvalidInput
from services.gateway.chat.schemas import (
    AssistantMessage,
    AudioContent,
    AudioOutput,
    ChatRequest,
    ContentPart,
    ImageContent,
    LyraOptions,
    Message,
    StoredAudio,
    TextContent,
    VoiceId,
)
from services.gateway.http.api_errors import ApiError, bad_request
from services.gateway.media.stored_media import URL_SCHEME, StoredMedia
from services.gateway.settings import GatewaySettings
from services.shared.pipeline.messages import (
    AnswerRequest,
    AudioPart,
    ImagePart,
    Part,
    Role,
    SpeechOptions,
    TextPart,
    VideoPart,
)
from services.shared.pipeline.messages import Message as PromptMessage

_ROLES = {"system": Role.SYSTEM, "developer": Role.SYSTEM, "user": Role.USER, "assistant": Role.ASSISTANT}
_IMAGE_TYPES = ("image/jpeg", "image/png", "image/webp")
_VIDEO_TYPES = ("video/mp4", "video/webm", "video/quicktime")
# Browsers also include the codecs of a recording: data:video/webm;codecs=vp8,opus;base64,...
_DATA_URI = re.compile(r"data:(?P<type>[^;,]*)(?:;[\w-]+=[^;]{0,200})*(?P<base64>;base64,)?", re.IGNORECASE)
_SEED_MASK = 2**64 - 1
_BASE64_STEP = 2**20
_NONE: Mapping[str, StoredMedia] = MappingProxyType({})
# Paths in the request of fields that the services name in errors.
_PATHS = {
    "voice": "audio.voice",
    "adapter": "lyra.adapter",
    "keep_rate": "lyra.keep_rate",
    "blocks": "lyra.blocks",
}


def to_answer_request(
    request: ChatRequest, tenant: str, settings: GatewaySettings, stored: Mapping[str, StoredMedia] = _NONE
) -> AnswerRequest:
    """Checks what the schema cannot, and decodes all media. Raises ApiError with field and limit.

    Args:
        stored: The media that the request refers to by id, from `stored_media.load_referenced`.
    """
    check_model(request.model, settings)
    _check_options(request)
    messages = tuple(_message(message, f"messages[{row}]", stored) for row, message in enumerate(request.messages))
    _check_totals(messages, settings)
    newer = request.max_completion_tokens is not None
    lyra = request.lyra or LyraOptions()
    return AnswerRequest(
        messages=messages,
        tenant=tenant,
        sampling=_sampling(request),
        speech=_speech(request.audio) if request.wants_audio else None,
        adapter=lyra.adapter or "",
        keep_rate=lyra.keep_rate,
        blocks=lyra.blocks,
        paths={**_PATHS, "max_tokens": "max_completion_tokens" if newer else "max_tokens"},
    )


def check_model(model: str, settings: GatewaySettings) -> None:
    """Raises ApiError 404, like OpenAI, for any model but the one of this server."""
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


def _sampling(request: ChatRequest) -> SamplingParams:
    """Fields map by name, so that a new one needs no change here; those that OpenAI's API spells its own way follow."""
    values = {name: getattr(request, name) for name in SAMPLING_FIELDS & ChatRequest.model_fields.keys()}
    values["max_tokens"] = request.max_completion_tokens or request.max_tokens
    values["seed"] = None if request.seed is None else request.seed & _SEED_MASK
    values["stop"] = tuple(request.stops)
    values["logit_bias"] = {int(token): bias for token, bias in (request.logit_bias or {}).items()}
    try:
        return SamplingParams(**{name: value for name, value in values.items() if value is not None})
    except InvalidInput as error:
        raise bad_request(error.field, error.message) from None


def _speech(audio: AudioOutput | None) -> SpeechOptions:
    return SpeechOptions(voice_name(audio.voice) if audio else "")


def _message(message: Message, path: str, stored: Mapping[str, StoredMedia]) -> PromptMessage:
    content = message.content
    if content is None:
        assert isinstance(message, AssistantMessage)
        assert message.audio is not None
        content = message.audio.transcript or ""
    role = _ROLES[message.role]
    if isinstance(content, str):
        return PromptMessage(role, (TextPart(content),))
    parts = (_part(part, f"{path}.content[{column}]", stored) for column, part in enumerate(content))
    return PromptMessage(role, tuple(parts))


def _part(part: ContentPart, path: str, stored: Mapping[str, StoredMedia]) -> Part:
    match part:
        case TextContent():
            return TextPart(part.text)
        case AudioContent():
            audio, path = part.input_audio, f"{path}.input_audio"
            if isinstance(audio, StoredAudio):
                return AudioPart(stored[audio.media_id].data, f"{path}.media_id")
            return AudioPart(_from_base64(audio.data, f"{path}.data"), f"{path}.data")
        case ImageContent():
            path = f"{path}.image_url.url"
            media_type, data = _from_url(part.image_url.url, path, _IMAGE_TYPES, stored)
            return ImagePart(data, media_type, path)
        case _:
            path = f"{path}.video_url.url"
            media_type, data = _from_url(part.video_url.url, path, _VIDEO_TYPES, stored)
            return VideoPart(data, media_type, path)


def _from_url(url: str, path: str, media_types: Sequence[str], stored: Mapping[str, StoredMedia]) -> tuple[str, bytes]:
    """Media type and content of a data URI or of stored media."""
    if url.startswith(URL_SCHEME):
        found = stored[url.removeprefix(URL_SCHEME)]
        return found.media_type, found.data
    return _from_data_uri(url, path, media_types)


def _from_data_uri(url: str, path: str, media_types: Sequence[str]) -> tuple[str, bytes]:
    """Media type and content. Error codes include the kind of media: invalid_video_url."""
    kind = media_types[0].partition("/")[0]
    example = f"data:{media_types[0]};base64,..."
    found = _DATA_URI.match(url)
    if found is None:
        text = f"has to be a data URI ({example}) or {URL_SCHEME}media-...; web URLs are not fetched"
        raise bad_request(path, text, f"invalid_{kind}_url")
    media_type = found["type"].lower()
    if media_type not in media_types:
        text = f"{media_type[:60]!r} is not one of {', '.join(media_types)}"
        raise bad_request(path, text, f"invalid_{kind}_format")
    if not found["base64"]:
        raise bad_request(path, f"the data URI has to be in base64: {example}", f"invalid_{kind}_url")
    return media_type, _from_base64(url[found.end() :], path)


def _from_base64(text: str, path: str) -> bytes:
    try:
        # In steps, so that other threads get the GIL in between; each is a multiple of four characters, and only the
        # last may have padding.
        steps = [text[start : start + _BASE64_STEP] for start in range(0, len(text), _BASE64_STEP)]
        if any(step.endswith("=") for step in steps[:-1]):
            raise ValueError
        data = b"".join([base64.b64decode(step, validate=True) for step in steps])
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
        text = f"{media} recordings, pictures and videos are over the limit of {settings.max_media} in one request"
        raise bad_request("messages", text, "too_many_media")
