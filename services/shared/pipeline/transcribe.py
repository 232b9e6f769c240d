"""A recording into a transcript."""

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing

from lyra.v1.speech_encoder_pb2 import TranscribeRequest, TranscribeResponse, TranscriptSegment
from services.shared.pipeline.calls import exchange, with_retries
from services.shared.pipeline.clients import SPEECH_ENCODER, ModelClients
from services.shared.pipeline.encode import ENCODED_AUDIO, in_pieces
from services.shared.pipeline.messages import AudioPart, Segment, TranscriptEnd, TranscriptEvent
from services.shared.service_errors import InvalidInput


async def transcribe(
    services: ModelClients, part: AudioPart, tenant: str, language: str = ""
) -> AsyncGenerator[TranscriptEvent, None]:
    """Yields segments as they are understood, then one TranscriptEnd.

    Leaving the iteration cancels the call. Raises InvalidInput with the part's path, "language" or "model", and other
    ServiceErrors.
    """

    async def requests() -> AsyncIterator[TranscribeRequest]:
        yield TranscribeRequest(header=TranscribeRequest.Header(audio=ENCODED_AUDIO, language=language))
        for piece in in_pieces(part.data):
            yield TranscribeRequest(data=piece)

    def attempt() -> AsyncGenerator[TranscribeResponse, None]:
        method, seconds = services.speech_encoder.Transcribe, services.deadlines.transcribe
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
    """A segment as the pipeline has it."""
    return Segment(
        message.start_seconds,
        message.end_seconds,
        message.text,
        message.mean_log_probability,
        message.no_speech_probability,
    )
