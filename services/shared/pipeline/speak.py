"""Speech synthesis from text, or from the hidden states of an answer."""

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
SpeechInput = str | Tensor


async def check_voice(clients: ModelClients, voice: str, tenant: str) -> VoiceDescription:
    """The voice that will speak. Raises InvalidInput("voice", ...) for an unknown one, and Unavailable.

    Called before an answer starts, so that it does not fail midway.
    """
    description = await describe_speech_synthesizer(clients, tenant)
    if voice and voice not in description.voices:
        raise InvalidInput("voice", f"{voice[:100]!r} is not one of: {', '.join(description.voices)}")
    voices = _voices(description)
    return next((each for each in voices if each.name == voice), voices[0])


async def _text_voice(clients: ModelClients, voice: str, tenant: str) -> str:
    """Name of the voice for a given text: the requested one, else the first that speaks from text.

    Raises:
        InvalidInput: "voice" if it is unknown or speaks from hidden states, "input" if no voice speaks from text.
    """
    requested = await check_voice(clients, voice, tenant)
    if not requested.hidden_width:
        return requested.name
    text_voices = [
        each.name for each in _voices(await describe_speech_synthesizer(clients, tenant)) if not each.hidden_width
    ]
    if not text_voices:
        raise InvalidInput("input", "this model's voice only speaks its own answers, not a given text")
    if voice:
        raise InvalidInput(
            "voice", f"{voice!r} only speaks the model's own answers; voices for text: {', '.join(text_voices)}"
        )
    return text_voices[0]


def _voices(description: SpeechSynthesizerDescribeResponse) -> Sequence[VoiceDescription]:
    """All voices; a synthesizer without descriptions of each has the same width and rate for all."""
    width, rate = description.hidden_width, description.sample_rate
    return description.voice_descriptions or [
        VoiceDescription(name=name, hidden_width=width, sample_rate=rate) for name in description.voices or ("",)
    ]


async def speaks_hidden_states(clients: ModelClients, voice: str, tenant: str) -> bool:
    """Whether the voice speaks an answer from its hidden states rather than from its text.

    Raises:
        Failed: It expects hidden states of another width than the language model's.
    """
    expected = (await check_voice(clients, voice, tenant)).hidden_width
    if not expected:
        return False
    width = (await describe_language_model(clients, tenant)).model.token_width
    if width != expected:
        raise Failed(f"the voice expects hidden states of width {expected}, the language model has width {width}")
    return True


async def speak(
    clients: ModelClients, text: str, options: SpeechOptions, tenant: str
) -> AsyncGenerator[AudioChunk, None]:
    """Yields the audio of a whole text. Leaving the iteration cancels the call.

    Raises:
        InvalidInput: "voice" if it is unknown or speaks from hidden states, "input" if no voice speaks from text.
    """

    async def whole() -> AsyncIterator[SpeechInput]:
        yield text

    options = replace(options, voice=await _text_voice(clients, options.voice, tenant))
    attempt = _attempt(clients, whole, options, tenant)
    async with aclosing(with_retries(SPEECH_SYNTHESIZER, attempt)) as responses:
        async for response in responses:
            yield AudioChunk(response.audio.pcm, response.audio.sample_rate)


async def speak_deltas(
    clients: ModelClients, deltas: AsyncIterator[SpeechInput], options: SpeechOptions, tenant: str
) -> AsyncGenerator[AudioChunk, None]:
    """Yields the audio of an answer while it is generated, from its text or its hidden states.

    The answer cannot be generated again, so deltas are kept for another attempt until the first audio arrives.
    """
    async with aclosing(Replayed(deltas)) as replayed:
        attempt = _attempt(clients, replayed, options, tenant)
        async with aclosing(with_retries(SPEECH_SYNTHESIZER, attempt)) as responses:
            async for response in responses:
                replayed.forget()
                yield AudioChunk(response.audio.pcm, response.audio.sample_rate)


def _attempt(
    clients: ModelClients, deltas: Callable[[], AsyncIterator[SpeechInput]], options: SpeechOptions, tenant: str
) -> Callable[[], AsyncGenerator[SynthesizeResponse, None]]:
    async def requests() -> AsyncIterator[SynthesizeRequest]:
        yield SynthesizeRequest(header=SynthesizeRequest.Header(voice=options.voice, speed=options.speed))
        async for delta in deltas():
            if isinstance(delta, str):
                yield SynthesizeRequest(text_delta=delta)
            else:
                yield SynthesizeRequest(hidden_states=delta)

    def attempt() -> AsyncGenerator[SynthesizeResponse, None]:
        method, seconds = clients.speech_synthesizer.Synthesize, clients.deadlines.synthesize
        return exchange(SPEECH_SYNTHESIZER, method, requests(), seconds=seconds, tenant=tenant)

    return attempt
