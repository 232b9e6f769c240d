"""Encodes speech, images and videos to tokens for the language model."""

from collections.abc import AsyncGenerator, AsyncIterator, Iterator

from lyra.v1.common_pb2 import SpeechTokens, VisionTokens
from lyra.v1.speech_encoder_pb2 import (
    AudioHeader,
    EncodedAudio,
    SpeechEncoderEncodeRequest,
    SpeechEncoderEncodeResponse,
)
from lyra.v1.vision_encoder_pb2 import VisionEncoderEncodeRequest, VisionEncoderEncodeResponse
from services.shared.pipeline.calls import exchange, with_retries
from services.shared.pipeline.clients import SPEECH_ENCODER, VISION_ENCODER, ModelClients
from services.shared.pipeline.messages import AudioPart, ImagePart
from services.shared.service_errors import InvalidInput

_DATA_BYTES = 256 * 1024

# The bytes of a file; the service detects its container.
ENCODED_AUDIO = AudioHeader(encoded=EncodedAudio())


async def encode_speech(clients: ModelClients, part: AudioPart, tenant: str, adapter: str = "") -> list[SpeechTokens]:
    """Speech tokens of a recording, clip by clip; an empty list for a video without audio.

    Args:
        clients: Of the services.
        part: The recording.
        tenant: Whose request it is.
        adapter: Whose projector makes the tokens; empty to choose by the length of the recording.

    Raises:
        InvalidInput: With the part's path or "adapter" as its field.
        ServiceError: The call failed for another reason.
    """

    def attempt() -> AsyncGenerator[SpeechEncoderEncodeResponse, None]:
        method, seconds = clients.speech_encoder.Encode, clients.deadlines.encode
        return exchange(SPEECH_ENCODER, method, _speech_requests(part, adapter), seconds=seconds, tenant=tenant)

    try:
        return [response.speech_tokens async for response in with_retries(SPEECH_ENCODER, attempt)]
    except InvalidInput as error:
        if error.field == "adapter":
            raise
        raise InvalidInput(part.path, error.message) from error


async def encode_image(clients: ModelClients, part: ImagePart, tenant: str) -> list[VisionTokens]:
    """Vision tokens of an image, or of the frames of a video.

    Raises:
        InvalidInput: With the part's path as its field.
        ServiceError: The call failed for another reason.
    """

    def attempt() -> AsyncGenerator[VisionEncoderEncodeResponse, None]:
        method, seconds = clients.vision_encoder.Encode, clients.deadlines.encode
        return exchange(VISION_ENCODER, method, _image_requests(part), seconds=seconds, tenant=tenant)

    try:
        return [response.vision_tokens async for response in with_retries(VISION_ENCODER, attempt)]
    except InvalidInput as error:
        raise InvalidInput(part.path, error.message) from error


def in_chunks(data: bytes) -> Iterator[bytes]:
    """Splits `data` into chunks that fit a message."""
    for start in range(0, len(data), _DATA_BYTES):
        yield data[start : start + _DATA_BYTES]


async def _speech_requests(part: AudioPart, adapter: str) -> AsyncIterator[SpeechEncoderEncodeRequest]:
    audio = AudioHeader(encoded=EncodedAudio(of_video=part.of_video))
    header = SpeechEncoderEncodeRequest.Header(audio=audio, adapter=adapter)
    yield SpeechEncoderEncodeRequest(header=header)
    for chunk in in_chunks(part.data):
        yield SpeechEncoderEncodeRequest(data=chunk)


async def _image_requests(part: ImagePart) -> AsyncIterator[VisionEncoderEncodeRequest]:
    yield VisionEncoderEncodeRequest(header=VisionEncoderEncodeRequest.Header(media_type=part.media_type))
    for chunk in in_chunks(part.data):
        yield VisionEncoderEncodeRequest(data=chunk)
