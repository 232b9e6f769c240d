"""Text into speech."""

from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing

import grpc

from lyra.v1.speech_synthesizer_pb2 import (
    SpeechSynthesizerDescribeRequest,
    SynthesizeRequest,
    SynthesizeResponse,
)
from services.common.errors import InvalidInput, from_rpc_error
from services.pipeline.calls import call_metadata, exchange, with_retries
from services.pipeline.messages import AudioChunk, SpeechOptions
from services.pipeline.services import SPEECH_SYNTHESIZER, Services


async def check_voice(services: Services, voice: str, tenant: str) -> None:
    """Raises InvalidInput("voice", ...) for a voice that is not there, and Unavailable where nobody could speak.

    Asked before an answer begins, so that neither comes as a surprise in its middle.
    """

    async def attempt() -> AsyncGenerator[list[str], None]:
        try:
            description = await services.speech_synthesizer.Describe(
                SpeechSynthesizerDescribeRequest(),
                timeout=services.deadlines.describe,
                metadata=call_metadata(tenant),
            )
        except grpc.aio.AioRpcError as error:
            raise from_rpc_error(SPEECH_SYNTHESIZER, error) from error
        yield list(description.voices)

    async for voices in with_retries(SPEECH_SYNTHESIZER, attempt):
        if voice and voice not in voices:
            raise InvalidInput("voice", f"{voice[:100]!r} is not one of: {', '.join(voices)}")


async def speak(services: Services, text: str, options: SpeechOptions, tenant: str) -> AsyncGenerator[AudioChunk, None]:
    """Yields the sound of a whole text. Leaving the iteration cancels the call."""

    async def whole() -> AsyncIterator[str]:
        yield text

    await check_voice(services, options.voice, tenant)
    attempt = _attempt(services, whole, options, tenant)
    async with aclosing(with_retries(SPEECH_SYNTHESIZER, attempt)) as responses:
        async for response in responses:
            yield AudioChunk(response.audio.pcm, response.audio.sample_rate)


async def speak_deltas(
    services: Services, deltas: AsyncIterator[str], options: SpeechOptions, tenant: str
) -> AsyncGenerator[AudioChunk, None]:
    """Yields the sound of a text that is still being written. No second attempt: the text cannot be written again."""
    attempt = _attempt(services, lambda: deltas, options, tenant)
    async with aclosing(attempt()) as responses:
        async for response in responses:
            yield AudioChunk(response.audio.pcm, response.audio.sample_rate)


def _attempt(
    services: Services, texts: Callable[[], AsyncIterator[str]], options: SpeechOptions, tenant: str
) -> Callable[[], AsyncGenerator[SynthesizeResponse, None]]:
    async def requests() -> AsyncIterator[SynthesizeRequest]:
        yield SynthesizeRequest(header=SynthesizeRequest.Header(voice=options.voice, speed=options.speed))
        async for text in texts():
            yield SynthesizeRequest(text_delta=text)

    def attempt() -> AsyncGenerator[SynthesizeResponse, None]:
        method, seconds = services.speech_synthesizer.Synthesize, services.deadlines.synthesize
        return exchange(SPEECH_SYNTHESIZER, method, requests(), seconds=seconds, tenant=tenant)

    return attempt
