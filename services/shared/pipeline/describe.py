"""What the services say of themselves: adapters, limits, voices. Answers are cached (`DescriptionCache`)."""

from lyra.v1.language_model_pb2 import LanguageModelDescribeRequest, LanguageModelDescribeResponse
from lyra.v1.speech_encoder_pb2 import SpeechEncoderDescribeRequest, SpeechEncoderDescribeResponse
from lyra.v1.speech_synthesizer_pb2 import SpeechSynthesizerDescribeRequest, SpeechSynthesizerDescribeResponse
from services.shared.pipeline.calls import ask
from services.shared.pipeline.clients import LANGUAGE_MODEL, SPEECH_ENCODER, SPEECH_SYNTHESIZER, ModelClients


async def describe_language_model(
    clients: ModelClients, tenant: str, *, fresh: bool = False
) -> LanguageModelDescribeResponse:
    """Adapters, context, and bounds of the extractor; with `fresh` never from the cache. Raises ServiceError."""
    method, seconds = clients.language_model.Describe, clients.deadlines.describe
    return await clients.descriptions.get(
        LANGUAGE_MODEL,
        lambda: ask(LANGUAGE_MODEL, method, LanguageModelDescribeRequest(), seconds=seconds, tenant=tenant),
        fresh=fresh,
    )


async def describe_speech_encoder(
    clients: ModelClients, tenant: str, *, fresh: bool = False
) -> SpeechEncoderDescribeResponse:
    """Adapters with a projector, and the longest recording; with `fresh` never from the cache. Raises ServiceError."""
    method, seconds = clients.speech_encoder.Describe, clients.deadlines.describe
    return await clients.descriptions.get(
        SPEECH_ENCODER,
        lambda: ask(SPEECH_ENCODER, method, SpeechEncoderDescribeRequest(), seconds=seconds, tenant=tenant),
        fresh=fresh,
    )


async def describe_speech_synthesizer(clients: ModelClients, tenant: str) -> SpeechSynthesizerDescribeResponse:
    """Voices, and what they speak from. Raises ServiceError."""
    method, seconds = clients.speech_synthesizer.Describe, clients.deadlines.describe
    return await clients.descriptions.get(
        SPEECH_SYNTHESIZER,
        lambda: ask(SPEECH_SYNTHESIZER, method, SpeechSynthesizerDescribeRequest(), seconds=seconds, tenant=tenant),
    )
