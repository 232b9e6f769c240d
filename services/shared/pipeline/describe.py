"""What the services say of themselves: adapters, limits, voices."""

from lyra.v1.language_model_pb2 import LanguageModelDescribeRequest, LanguageModelDescribeResponse
from lyra.v1.speech_encoder_pb2 import SpeechEncoderDescribeRequest, SpeechEncoderDescribeResponse
from lyra.v1.speech_synthesizer_pb2 import SpeechSynthesizerDescribeRequest, SpeechSynthesizerDescribeResponse
from services.shared.pipeline.calls import ask
from services.shared.pipeline.clients import LANGUAGE_MODEL, SPEECH_ENCODER, SPEECH_SYNTHESIZER, ModelClients


async def describe_language_model(services: ModelClients, tenant: str) -> LanguageModelDescribeResponse:
    """Adapters, context, bounds of the extractor. Raises ServiceError."""
    method, seconds = services.language_model.Describe, services.deadlines.describe
    return await ask(LANGUAGE_MODEL, method, LanguageModelDescribeRequest(), seconds=seconds, tenant=tenant)


async def describe_speech_encoder(services: ModelClients, tenant: str) -> SpeechEncoderDescribeResponse:
    """Adapters that it has a projector of, longest recording. Raises ServiceError."""
    method, seconds = services.speech_encoder.Describe, services.deadlines.describe
    return await ask(SPEECH_ENCODER, method, SpeechEncoderDescribeRequest(), seconds=seconds, tenant=tenant)


async def describe_speech_synthesizer(services: ModelClients, tenant: str) -> SpeechSynthesizerDescribeResponse:
    """Voices, and what they speak from. Raises ServiceError."""
    method, seconds = services.speech_synthesizer.Describe, services.deadlines.describe
    return await ask(SPEECH_SYNTHESIZER, method, SpeechSynthesizerDescribeRequest(), seconds=seconds, tenant=tenant)
