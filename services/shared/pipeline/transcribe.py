"""Transcribes a recording."""

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing

from lyra.v1.speech_encoder_pb2 import TranscribeRequest, TranscribeResponse, TranscriptSegment
from services.shared.pipeline.calls import exchange, with_retries
from services.shared.pipeline.clients import SPEECH_ENCODER, ModelClients
from services.shared.pipeline.encode import ENCODED_AUDIO, in_chunks
from services.shared.pipeline.messages import AudioPart, Segment, TranscriptEnd, TranscriptEvent
from services.shared.service_errors import InvalidInput


async def transcribe(
    clients: ModelClients, part: AudioPart, tenant: str, language: str = ""
) -> AsyncGenerator[TranscriptEvent, None]:
    """Yields segments as they are transcribed, then one TranscriptEnd. Leaving the iteration cancels the call.

    Raises:
        InvalidInput: With the part's path, "language" or "model" as its field.
        ServiceError: The call failed for another reason.
    """

    async def requests() -> AsyncIterator[TranscribeRequest]:
        yield TranscribeRequest(header=TranscribeRequest.Header(audio=ENCODED_AUDIO, language=language))
        for chunk in in_chunks(part.data):
            yield TranscribeRequest(data=chunk)

    def attempt() -> AsyncGenerator[TranscribeResponse, None]:
        method, seconds = clients.speech_encoder.Transcribe, clients.deadlines.transcribe
        return exchange(SPEECH_ENCODER, method, requests(), seconds=seconds, tenant=tenant)

    try:
        async with aclosing(with_retries(SPEECH_ENCODER, attempt)) as responses:
            async for response in responses:
                if response.WhichOneof("event") == "segment":
                    yield to_segment(response.segment)
                else:
                    yield TranscriptEnd(response.summary.duration_seconds, response.summary.language)
    except InvalidInput as error:
        field = error.field if error.field in ("language", "model") else part.path
        raise InvalidInput(field, error.message) from error


def to_segment(message: TranscriptSegment) -> Segment:
    """Converts a segment of lyra.v1 to the pipeline's."""
    return Segment(
        message.start_seconds,
        message.end_seconds,
        message.text,
        message.mean_log_probability,
        message.no_speech_probability,
    )
