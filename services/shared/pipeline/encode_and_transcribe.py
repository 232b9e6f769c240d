"""Encodes and transcribes a recording in one call, `SpeechEncoder.Hear` of lyra.v1."""

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass

from lyra.v1.speech_encoder_pb2 import AudioHeader, EncodedAudio, HearRequest, HearResponse
from services.shared.pipeline.calls import exchange, with_retries
from services.shared.pipeline.clients import SPEECH_ENCODER, ModelClients
from services.shared.pipeline.encode import in_chunks
from services.shared.pipeline.messages import AudioPart, Segment
from services.shared.pipeline.transcribe import to_segment
from services.shared.rpc.tensors import Array, TensorAssembler
from services.shared.service_errors import Failed, InvalidInput

# A clip lasts 30 s at most, and no encoder makes more than 50 tokens a second.
_MAX_TOKENS = 1500


@dataclass(frozen=True, slots=True)
class TranscribedClip:
    """Speech tokens and transcript of a clip.

    Attributes:
        tokens_NE: [N, E] float32, made by the projector of `adapter`.
        adapter: The adapter that is to read the tokens.
        segments: The transcript, timed from the start of the clip.
        language: Code of the language that was requested or detected; empty where neither.
    """

    tokens_NE: Array
    adapter: str
    segments: tuple[Segment, ...]
    language: str


async def encode_and_transcribe(
    clients: ModelClients, part: AudioPart, tenant: str, *, adapter: str = "", language: str = ""
) -> TranscribedClip:
    """Encodes and transcribes a recording of one clip, 30 s at most.

    Raises:
        InvalidInput: With the part's path, "adapter", "language" or "model" as its field.
        ServiceError: The call failed for another reason.
    """

    def attempt() -> AsyncGenerator[HearResponse, None]:
        method, seconds = clients.speech_encoder.Hear, clients.deadlines.transcribe
        return exchange(SPEECH_ENCODER, method, _requests(part, adapter, language), seconds=seconds, tenant=tenant)

    received: list[HearResponse] = []
    try:
        async with aclosing(with_retries(SPEECH_ENCODER, attempt)) as responses:
            async for response in responses:
                if response.speech_tokens.clip_index > 0:
                    raise InvalidInput(part.path, "is longer than one clip")
                received.append(response)
    except InvalidInput as error:
        field = error.field if error.field in ("adapter", "language", "model") else part.path
        raise InvalidInput(field, error.message) from error
    try:
        return _assembled(received)
    except InvalidInput as error:  # not the caller's
        raise Failed(f"the {SPEECH_ENCODER} answered with {error}") from error


def _assembled(received: list[HearResponse]) -> TranscribedClip:
    """Raises InvalidInput where something is missing or malformed."""
    tokens = [each.speech_tokens for each in received if each.WhichOneof("event") == "speech_tokens"]
    if not tokens or received[-1].WhichOneof("event") != "summary":
        raise InvalidInput("summary", "speech tokens or the summary are missing")
    *_, width = (0, *tokens[0].tokens.rows.shape)
    assembler = TensorAssembler(width=width, max_rows=_MAX_TOKENS, field="speech_tokens")
    for message in tokens:
        assembler.add(message.tokens)
    segments = tuple(to_segment(each.segment) for each in received if each.WhichOneof("event") == "segment")
    return TranscribedClip(assembler.result(), tokens[0].adapter, segments, received[-1].summary.language)


async def _requests(part: AudioPart, adapter: str, language: str) -> AsyncIterator[HearRequest]:
    audio = AudioHeader(encoded=EncodedAudio(of_video=part.of_video))
    yield HearRequest(header=HearRequest.Header(audio=audio, adapter=adapter, language=language))
    for chunk in in_chunks(part.data):
        yield HearRequest(data=chunk)
