"""Text, or the hidden states of an answer, into speech."""

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import aclosing
from dataclasses import replace

from lyra.v1.common_pb2 import Tensor
from lyra.v1.speech_synthesizer_pb2 import (
    SpeechSynthesizerDescribeResponse,
    SynthesizeRequest,
    SynthesizeResponse,
    VoiceDescription,
)
from services.shared.pipeline.calls import Replayed, exchange, with_retries
from services.shared.pipeline.clients import SPEECH_SYNTHESIZER, ModelClients
from services.shared.pipeline.describe import describe_language_model, describe_speech_synthesizer
from services.shared.pipeline.messages import AudioChunk, SpeechOptions
from services.shared.service_errors import Failed, InvalidInput

# What a voice speaks from: text, or hidden states of answer tokens [tokens, width].
Spoken = str | Tensor


async def check_voice(services: ModelClients, voice: str, tenant: str) -> VoiceDescription:
    """Who speaks. Raises InvalidInput("voice", ...) for a voice that is not there, and Unavailable where nobody could.

    Asked before an answer begins, so that neither comes as a surprise in its middle.
    """
    description = await describe_speech_synthesizer(services, tenant)
    if voice and voice not in description.voices:
        raise InvalidInput("voice", f"{voice[:100]!r} is not one of: {', '.join(description.voices)}")
    voices = _voices(description)
    return next((each for each in voices if each.name == voice), voices[0])


async def _reader(services: ModelClients, voice: str, tenant: str) -> str:
    """Name of the voice that reads a given text: the one asked for, else the first that speaks from text.

    Raises:
        InvalidInput: "voice" for one that is not there or speaks answers alone, "input" where none speaks from text.
    """
    asked = await check_voice(services, voice, tenant)
    if not asked.hidden_width:
        return asked.name
    readers = [
        each.name for each in _voices(await describe_speech_synthesizer(services, tenant)) if not each.hidden_width
    ]
    if not readers:
        raise InvalidInput("input", "this model's voice speaks its own answers alone, not a given text")
    if voice:
        raise InvalidInput(
            "voice", f"{voice!r} speaks the model's own answers alone; texts are read by: {', '.join(readers)}"
        )
    return readers[0]


def _voices(description: SpeechSynthesizerDescribeResponse) -> Sequence[VoiceDescription]:
    """Every voice; a synthesizer that describes them together has them all alike."""
    width, rate = description.hidden_width, description.sample_rate
    return description.voice_descriptions or [
        VoiceDescription(name=name, hidden_width=width, sample_rate=rate) for name in description.voices or ("",)
    ]


async def speaks_hidden_states(services: ModelClients, voice: str, tenant: str) -> bool:
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


async def speak(
    services: ModelClients, text: str, options: SpeechOptions, tenant: str
) -> AsyncGenerator[AudioChunk, None]:
    """Yields the sound of a whole text. Leaving the iteration cancels the call.

    Raises:
        InvalidInput: "voice" for one that is not there or speaks answers alone, "input" where none speaks from text.
    """

    async def whole() -> AsyncIterator[Spoken]:
        yield text

    options = replace(options, voice=await _reader(services, options.voice, tenant))
    attempt = _attempt(services, whole, options, tenant)
    async with aclosing(with_retries(SPEECH_SYNTHESIZER, attempt)) as responses:
        async for response in responses:
            yield AudioChunk(response.audio.pcm, response.audio.sample_rate)


async def speak_deltas(
    services: ModelClients, deltas: AsyncIterator[Spoken], options: SpeechOptions, tenant: str
) -> AsyncGenerator[AudioChunk, None]:
    """Yields the sound of an answer that is still being written: its text, or its hidden states.

    The answer cannot be written again; until the first sound comes, what was written is kept for another attempt.
    """
    async with aclosing(Replayed(deltas)) as written:
        attempt = _attempt(services, written, options, tenant)
        async with aclosing(with_retries(SPEECH_SYNTHESIZER, attempt)) as responses:
            async for response in responses:
                written.forget()
                yield AudioChunk(response.audio.pcm, response.audio.sample_rate)


def _attempt(
    services: ModelClients, deltas: Callable[[], AsyncIterator[Spoken]], options: SpeechOptions, tenant: str
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
