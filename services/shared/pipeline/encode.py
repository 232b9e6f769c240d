"""Speech, pictures and videos into tokens for the language model."""

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

# Bytes of any container; the service finds out which.
ENCODED_AUDIO = AudioHeader(encoded=EncodedAudio())


async def encode_speech(services: ModelClients, part: AudioPart, tenant: str, adapter: str = "") -> list[SpeechTokens]:
    """Tokens of a recording, clip by clip, by the projector of `adapter`; empty: the one that fits its length.

    None of a video without sound.

    Raises InvalidInput with the part's own path, or "adapter", and other ServiceErrors.
    """

    def attempt() -> AsyncGenerator[SpeechEncoderEncodeResponse, None]:
        method, seconds = services.speech_encoder.Encode, services.deadlines.encode
        return exchange(SPEECH_ENCODER, method, _speech_requests(part, adapter), seconds=seconds, tenant=tenant)

    try:
        return [response.speech_tokens async for response in with_retries(SPEECH_ENCODER, attempt)]
    except InvalidInput as error:
        if error.field == "adapter":
            raise
        raise InvalidInput(part.path, error.message) from error


async def encode_image(services: ModelClients, part: ImagePart, tenant: str) -> list[VisionTokens]:
    """Tokens of a picture, or of the frames of a video.

    Raises InvalidInput with the part's own path, and other ServiceErrors.
    """

    def attempt() -> AsyncGenerator[VisionEncoderEncodeResponse, None]:
        method, seconds = services.vision_encoder.Encode, services.deadlines.encode
        return exchange(VISION_ENCODER, method, _image_requests(part), seconds=seconds, tenant=tenant)

    try:
        return [response.vision_tokens async for response in with_retries(VISION_ENCODER, attempt)]
    except InvalidInput as error:
        raise InvalidInput(part.path, error.message) from error


def in_pieces(data: bytes) -> Iterator[bytes]:
    """`data` in pieces that fit a message."""
    for start in range(0, len(data), _DATA_BYTES):
        yield data[start : start + _DATA_BYTES]


async def _speech_requests(part: AudioPart, adapter: str) -> AsyncIterator[SpeechEncoderEncodeRequest]:
    audio = AudioHeader(encoded=EncodedAudio(of_video=part.of_video))
    header = SpeechEncoderEncodeRequest.Header(audio=audio, adapter=adapter)
    yield SpeechEncoderEncodeRequest(header=header)
    for piece in in_pieces(part.data):
        yield SpeechEncoderEncodeRequest(data=piece)


async def _image_requests(part: ImagePart) -> AsyncIterator[VisionEncoderEncodeRequest]:
    yield VisionEncoderEncodeRequest(header=VisionEncoderEncodeRequest.Header(media_type=part.media_type))
    for piece in in_pieces(part.data):
        yield VisionEncoderEncodeRequest(data=piece)
