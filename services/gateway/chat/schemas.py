"""OpenAI's schemas of chat completions, as far as Lyra supports them.

Unsupported fields are declared with the only value that has no effect, so that any other value is refused with the
field's name instead of being silently ignored.
"""

from collections.abc import Sequence
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    ValidationInfo,
    field_validator,
    model_validator,
)

from model_core.engine.sampling_params import MAX_LOGIT_BIAS, MAX_LOGIT_BIASES, MAX_STOPS, sampling_bounds
from services.gateway.http.api_errors import bad_request

AudioFileFormat = Literal["wav", "mp3", "flac", "ogg", "opus", "webm", "m4a"]


class _Request(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class TextContent(_Request):
    type: Literal["text"]
    text: str = Field(min_length=1)


class InputAudio(_Request):
    data: str = Field(description="The file in base64.")
    format: AudioFileFormat


class StoredAudio(_Request):
    """A stored recording, or the audio track of a stored video."""

    media_id: str = Field(description="media-... of /v1/media.")


def _audio_source(value: Any) -> str:
    return "stored" if isinstance(value, StoredAudio) or (isinstance(value, dict) and "media_id" in value) else "inline"


class AudioContent(_Request):
    type: Literal["input_audio"]
    input_audio: Annotated[
        Annotated[InputAudio, Tag("inline")] | Annotated[StoredAudio, Tag("stored")], Discriminator(_audio_source)
    ]


class ImageUrl(_Request):
    url: str = Field(
        description="A data URI with a JPEG, PNG or WebP picture in base64, or media: and the id of an uploaded one. "
        "Web URLs are not fetched."
    )
    detail: Literal["auto", "low", "high"] | None = None


class ImageContent(_Request):
    type: Literal["image_url"]
    image_url: ImageUrl


class VideoUrl(_Request):
    url: str = Field(
        description="A data URI with an mp4, webm or mov video in base64, or media: and the id of an uploaded one; its "
        "audio track counts as speech. Web URLs are not fetched."
    )


class VideoContent(_Request):
    type: Literal["video_url"]
    video_url: VideoUrl


ContentPart = Annotated[TextContent | AudioContent | ImageContent | VideoContent, Discriminator("type")]


def _content_kind(value: Any) -> str | None:
    return "text" if isinstance(value, str) else "parts" if isinstance(value, list) else None


_text_or_parts = Discriminator(
    _content_kind, custom_error_type="content_type", custom_error_message="has to be a string or a list of parts"
)
AnyContent = Annotated[
    Annotated[str, Field(min_length=1), Tag("text")]
    | Annotated[list[ContentPart], Field(fail_fast=True, min_length=1), Tag("parts")],
    _text_or_parts,
]
WrittenContent = Annotated[
    Annotated[str, Tag("text")] | Annotated[list[TextContent], Field(fail_fast=True, min_length=1), Tag("parts")],
    _text_or_parts,
]


class SystemMessage(_Request):
    role: Literal["system", "developer"]
    content: WrittenContent
    name: str | None = None


class UserMessage(_Request):
    role: Literal["user"]
    content: AnyContent
    name: str | None = None


class PastAudio(_Request):
    """An earlier spoken answer. Audio is not stored on the server, so only the transcript is used."""

    id: str | None = None
    transcript: str | None = None
    data: str | None = None
    expires_at: int | None = None


class AssistantMessage(_Request):
    role: Literal["assistant"]
    content: WrittenContent | None = None
    audio: PastAudio | None = None
    name: str | None = None
    refusal: None = None
    annotations: list[Any] | None = Field(None, max_length=0)
    function_call: None = None
    tool_calls: None = None

    @model_validator(mode="after")
    def _check_content(self) -> Self:
        if self.content is None and (self.audio is None or self.audio.transcript is None):
            raise ValueError("content or audio.transcript is required (spoken answers are not stored by id)")
        return self


Message = Annotated[SystemMessage | UserMessage | AssistantMessage, Discriminator("role")]


class VoiceId(_Request):
    id: str


class AudioOutput(_Request):
    voice: str | VoiceId = Field("", description="Empty for the first voice.")
    format: Literal["wav", "mp3", "opus", "flac", "pcm16"] = Field(
        "wav", description="pcm16 is 24 kHz, mono, little-endian, without a header."
    )


class StreamOptions(_Request):
    include_usage: bool | None = None
    include_obfuscation: Literal[False] | None = None


class TextFormat(_Request):
    type: Literal["text"]


class LyraOptions(_Request):
    """Options that OpenAI's API does not have. OpenAI's clients send them with `extra_body`."""

    adapter: str | None = Field(
        default=None,
        max_length=64,
        pattern="^[a-z0-9_-]+$",
        description="Adapter to answer with; base for none. By default, the one that fits the prompt.",
    )
    keep_rate: float | None = Field(
        default=None,
        gt=0,
        le=1,
        description="Share of the speech and vision tokens kept after each block of layers; 1 keeps all.",
    )
    blocks: int | None = Field(
        default=None, ge=1, le=2**31 - 1, description="Number of blocks of layers; 1 keeps all tokens."
    )


def _sampling(name: str, description: str | None = None) -> Any:
    """A field of SamplingParams, with its bounds."""
    bounds: dict[str, Any] = dict(sampling_bounds(name))
    return Field(None, description=description, **bounds)


TokenId = Annotated[str, Field(pattern="^[0-9]{1,9}$")]
Bias = Annotated[float, Field(ge=-MAX_LOGIT_BIAS, le=MAX_LOGIT_BIAS)]
_STOPS = Field(fail_fast=True, max_length=MAX_STOPS)


class ChatRequest(_Request):
    """A conversation to answer with text, or with text and speech."""

    model: str
    messages: list[Message] = Field(fail_fast=True, min_length=1)
    modalities: list[Literal["text", "audio"]] | None = Field(None, fail_fast=True, min_length=1, max_length=2)
    audio: AudioOutput | None = Field(None, description="Format and voice of the speech, if modalities include audio.")
    max_tokens: int | None = _sampling("max_tokens", "Maximum number of text tokens of the answer.")
    max_completion_tokens: int | None = _sampling("max_tokens", "The newer name of max_tokens.")
    temperature: float | None = _sampling("temperature", "0, the default, takes the most likely token each time.")
    top_p: float | None = _sampling("top_p")
    top_k: int | None = _sampling(
        "top_k", "As with vLLM: number of most likely tokens to sample from. 0, the default: off."
    )
    min_p: float | None = _sampling(
        "min_p", "As in vLLM: minimum probability of a token relative to the most likely one. 0, the default, is off."
    )
    presence_penalty: float | None = _sampling("presence_penalty")
    frequency_penalty: float | None = _sampling("frequency_penalty")
    repetition_penalty: float | None = _sampling(
        "repetition_penalty", "As with vLLM: makes tokens of prompt and answer less likely. 1, the default: off."
    )
    logit_bias: dict[TokenId, Bias] | None = Field(None, max_length=MAX_LOGIT_BIASES)
    seed: int | None = Field(None, ge=-(2**63), le=2**63 - 1)
    logprobs: bool | None = Field(
        None, description="Returns log-probabilities of the model itself, before temperature and penalties."
    )
    top_logprobs: int | None = _sampling("top_logprobs")
    stop: str | Annotated[list[Annotated[str, Field(min_length=1)]], _STOPS] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    lyra: LyraOptions | None = None

    # Accepted, without effect on the answer.
    user: str | None = None
    metadata: dict[str, str] | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    prompt_cache_retention: Literal["in_memory", "24h"] | None = None
    service_tier: Literal["auto", "default"] | None = None

    # Supported only with the value that has no effect.
    n: Literal[1] | None = None
    store: Literal[False] | None = None
    response_format: TextFormat | None = None

    tools: None = None
    tool_choice: None = None
    parallel_tool_calls: None = None
    functions: None = None
    function_call: None = None
    moderation: None = None
    prediction: None = None
    prompt_cache_options: None = None
    reasoning_effort: None = None
    verbosity: None = None
    web_search_options: None = None

    @field_validator("messages", mode="before")
    @classmethod
    def _within_limits(cls, messages: Any, info: ValidationInfo) -> Any:
        """Checks counts before anything is validated, if the context has the gateway's settings."""
        if info.context is not None and isinstance(messages, list):
            _check_counts(messages, info.context.max_messages, info.context.max_parts)
        return messages

    @property
    def wants_audio(self) -> bool:
        return "audio" in (self.modalities or ())

    @property
    def stops(self) -> Sequence[str]:
        return [self.stop] if isinstance(self.stop, str) else self.stop or []


def _check_counts(messages: list[Any], max_messages: int, max_parts: int) -> None:
    if len(messages) > max_messages:
        text = f"{len(messages)} messages are over the limit of {max_messages}"
        raise bad_request("messages", text, "too_many_messages")
    for row, message in enumerate(messages):
        parts = message.get("content") if isinstance(message, dict) else None
        if isinstance(parts, list) and len(parts) > max_parts:
            text = f"{len(parts)} parts are over the limit of {max_parts} in one message"
            raise bad_request(f"messages[{row}].content", text, "too_many_parts")


class PromptTokensDetails(BaseModel):
    text_tokens: int
    audio_tokens: int = Field(description="Speech tokens in the prompt.")
    image_tokens: int = Field(description="Vision tokens in the prompt.")
    cached_tokens: int = Field(description="Prompt tokens that were not processed again: the prefix cache had them.")


class CompletionTokensDetails(BaseModel):
    text_tokens: int = Field(description="Tokens of the language model, which max_tokens limits.")
    audio_tokens: int = Field(description="Duration of the spoken answer in units of 50 ms, rounded up.")
    reasoning_tokens: int = 0
    accepted_prediction_tokens: int = 0
    rejected_prediction_tokens: int = 0


class LyraUsage(BaseModel):
    adapter: str = Field(description="Adapter used; base for none.")
    context_tokens: list[int] = Field(description="Speech and vision tokens in each block of layers, in order.")


class CompletionUsage(BaseModel):
    prompt_tokens: int
    completion_tokens: int = Field(description="Text tokens and audio tokens together.")
    total_tokens: int
    prompt_tokens_details: PromptTokensDetails
    completion_tokens_details: CompletionTokensDetails
    lyra: LyraUsage


class AnswerAudio(BaseModel):
    id: str
    data: str = Field(description="The file in base64, in the requested format.")
    transcript: str
    expires_at: int = Field(description="Unix time; the same as created, because spoken answers are not stored.")


class AnswerMessage(BaseModel):
    role: Literal["assistant"] = "assistant"
    content: str | None
    refusal: None = None
    audio: AnswerAudio | None = None
    annotations: list[Any] = Field(default_factory=list)


class TopLogprob(BaseModel):
    token: str
    logprob: float
    bytes: list[int] = Field(description="In UTF-8; a token may have a part of a character only.")


class TokenLogprob(TopLogprob):
    top_logprobs: list[TopLogprob]


class ChoiceLogprobs(BaseModel):
    content: list[TokenLogprob]
    refusal: None = None


class Choice(BaseModel):
    index: Literal[0] = 0
    message: AnswerMessage
    logprobs: ChoiceLogprobs | None = None
    finish_reason: Literal["stop", "length"]


class ChatCompletion(BaseModel):
    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    choices: list[Choice]
    usage: CompletionUsage
    service_tier: Literal["default"] = "default"
    system_fingerprint: None = None
