"""Text, or the hidden states of an answer, into speech."""

from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing

from lyra.v1.common_pb2 import Tensor
from lyra.v1.speech_synthesizer_pb2 import (
    SpeechSynthesizerDescribeResponse,
    SynthesizeRequest,
    SynthesizeResponse,
)
from services.common.errors import Failed, InvalidInput
from services.pipeline.calls import exchange, with_retries
from services.pipeline.describe import describe_language_model, describe_speech_synthesizer
from services.pipeline.messages import AudioChunk, SpeechOptions
from services.pipeline.services import SPEECH_SYNTHESIZER, Services

# What a voice speaks from: text, or hidden states of answer tokens [tokens, width].
Spoken = str | Tensor


async def check_voice(services: Services, voice: str, tenant: str) -> SpeechSynthesizerDescribeResponse:
    """What speaks. Raises InvalidInput("voice", ...) for a voice that is not there, and Unavailable where nobody could.

    Asked before an answer begins, so that neither comes as a surprise in its middle.
    """
    description = await describe_speech_synthesizer(services, tenant)
    if voice and voice not in description.voices:
        raise InvalidInput("voice", f"{voice[:100]!r} is not one of: {', '.join(description.voices)}")
    return description


async def speaks_hidden_states(services: Services, voice: str, tenant: str) -> bool:
    """Whether the voice speaks an answer from its hidden states, rather than from its text.

    Raises:
        Failed: It takes hidden states of another width than the language model has.
    """
    wanted = (await check_voice(services, voice, tenant)).hidden_width
    if not wanted:
        return False
    width = (await describe_language_model(services, tenant)).model.token_width
    if width != wanted:
        raise Failed(f"the voice takes hidden states {wanted} wide, those of the language model are {width} wide")
    return True


async def speak(services: Services, text: str, options: SpeechOptions, tenant: str) -> AsyncGenerator[AudioChunk, None]:
    """Yields the sound of a whole text. Leaving the iteration cancels the call.

    Raises:
        InvalidInput: "voice" for one that is not there, "input" where the voice speaks from hidden states alone.
    """

    async def whole() -> AsyncIterator[Spoken]:
        yield text

    if (await check_voice(services, options.voice, tenant)).hidden_width:
        raise InvalidInput("input", "this model's voice speaks its own answers alone, not a given text")
    attempt = _attempt(services, whole, options, tenant)
    async with aclosing(with_retries(SPEECH_SYNTHESIZER, attempt)) as responses:
        async for response in responses:
            yield AudioChunk(response.audio.pcm, response.audio.sample_rate)


async def speak_deltas(
    services: Services, deltas: AsyncIterator[Spoken], options: SpeechOptions, tenant: str
) -> AsyncGenerator[AudioChunk, None]:
    """Yields the sound of an answer that is still being written: its text, or its hidden states.

    No second attempt: the answer cannot be written again.
    """
    attempt = _attempt(services, lambda: deltas, options, tenant)
    async with aclosing(attempt()) as responses:
        async for response in responses:
            yield AudioChunk(response.audio.pcm, response.audio.sample_rate)


def _attempt(
    services: Services, deltas: Callable[[], AsyncIterator[Spoken]], options: SpeechOptions, tenant: str
) -> Callable[[], AsyncGenerator[SynthesizeResponse, None]]:
    async def requests() -> AsyncIterator[SynthesizeRequest]:
        yield SynthesizeRequest(header=SynthesizeRequest.Header(voice=options.voice, speed=options.speed))
        async for delta in deltas():
            if isinstance(delta, str):
                yield SynthesizeRequest(text_delta=delta)
            else:
                yield SynthesizeRequest(hidden_states=delta)

    def attempt() -> AsyncGenerator[SynthesizeResponse, None]:
        method, seconds = services.speech_synthesizer.Synthesize, services.deadlines.synthesize
        return exchange(SPEECH_SYNTHESIZER, method, requests(), seconds=seconds, tenant=tenant)

    return attempt
