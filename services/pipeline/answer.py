"""One answer: parts are encoded side by side, the prompt streams into the language model, its text is spoken."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import aclosing

from lyra.v1.common_pb2 import SpeechTokens, VisionTokens
from lyra.v1.language_model_pb2 import (
    FINISH_REASON_LENGTH,
    ROLE_ASSISTANT,
    ROLE_SYSTEM,
    ROLE_USER,
    GenerateFinish,
    GenerateHeader,
    GenerateRequest,
    GenerateResponse,
    MessageStart,
)
from lyra.v1.language_model_pb2 import Role as RoleMessage
from services.common.errors import Failed, InvalidInput
from services.pipeline.calls import exchange, with_retries
from services.pipeline.encode import encode_image, encode_speech
from services.pipeline.messages import (
    AnswerEvent,
    AnswerRequest,
    AudioChunk,
    AudioPart,
    Finished,
    ImagePart,
    Role,
    TextDelta,
    TextPart,
    Usage,
)
from services.pipeline.services import LANGUAGE_MODEL, Services
from services.pipeline.speak import check_voice, speak_deltas

# Events made ahead of a slow reader, and text deltas ahead of a slow voice; beyond that the services wait too.
_EVENTS_AHEAD = 16
_DELTAS_AHEAD = 256
# Parts of one request that are encoded at the same time.
_ENCODING_AT_ONCE = 4

_ROLES: Mapping[Role, RoleMessage.ValueType] = {
    Role.SYSTEM: ROLE_SYSTEM,
    Role.USER: ROLE_USER,
    Role.ASSISTANT: ROLE_ASSISTANT,
}

Tokens = list[SpeechTokens] | list[VisionTokens]
# By the place of the part: message, part.
Encodings = Mapping[tuple[int, int], asyncio.Task[Tokens]]


async def answer(services: Services, request: AnswerRequest) -> AsyncGenerator[AnswerEvent, None]:
    """Yields text deltas and, where speech is wanted, audio chunks between them; then one Finished.

    Leaving the iteration (aclose, cancellation) cancels the call to every service at once. Raises ServiceError;
    InvalidInput names fields as the caller knows them.
    """
    events: asyncio.Queue[AnswerEvent | Exception] = asyncio.Queue(_EVENTS_AHEAD)
    worker = asyncio.create_task(_Answer(services, request, events).run())
    try:
        while True:
            event = await events.get()
            if isinstance(event, Exception):
                raise event
            yield event
            if isinstance(event, Finished):
                return
    finally:
        worker.cancel()
        await asyncio.gather(worker, return_exceptions=True)


class _Answer:
    """The calls of one answer, all in one task group: the first that fails ends the others."""

    def __init__(
        self, services: Services, request: AnswerRequest, events: asyncio.Queue[AnswerEvent | Exception]
    ) -> None:
        self._services = services
        self._request = request
        self._events = events
        self._slots = asyncio.Semaphore(_ENCODING_AT_ONCE)
        # None ends the text.
        self._spoken: asyncio.Queue[str | None] = asyncio.Queue(_DELTAS_AHEAD)

    async def run(self) -> None:
        try:
            await self._events.put(await self._work())
        except InvalidInput as error:
            path = self._request.paths.get(error.field, error.field)
            await self._events.put(InvalidInput(path, error.message))
        except Exception as error:
            await self._events.put(error)

    async def _work(self) -> Finished:
        request = self._request
        if request.speech is not None:
            await check_voice(self._services, request.speech.voice, request.tenant)
        try:
            async with asyncio.TaskGroup() as group:
                encodings = {
                    (row, column): group.create_task(self._encode(part))
                    for row, message in enumerate(request.messages)
                    for column, part in enumerate(message.parts)
                    if not isinstance(part, TextPart)
                }
                if request.speech is not None:
                    group.create_task(self._speak())
                return await self._generate(encodings)
        except BaseExceptionGroup as failures:
            raise _first(failures) from None

    async def _encode(self, part: AudioPart | ImagePart) -> Tokens:
        async with self._slots:
            if isinstance(part, AudioPart):
                return await encode_speech(self._services, part, self._request.tenant)
            return await encode_image(self._services, part, self._request.tenant)

    async def _generate(self, encodings: Encodings) -> Finished:
        services, finish = self._services, None

        def attempt() -> AsyncGenerator[GenerateResponse, None]:
            method, seconds = services.language_model.Generate, services.deadlines.generate
            prompt = self._prompt(encodings)
            return exchange(LANGUAGE_MODEL, method, prompt, seconds=seconds, tenant=self._request.tenant)

        async with aclosing(with_retries(LANGUAGE_MODEL, attempt)) as responses:
            async for response in responses:
                if response.WhichOneof("event") == "finish":
                    finish = response.finish
                elif text := response.text_delta.text:
                    await self._events.put(TextDelta(text))
                    if self._request.speech is not None:
                        await self._spoken.put(text)
        await self._spoken.put(None)
        if finish is None:
            raise Failed(f"the {LANGUAGE_MODEL} ended its answer without a reason")
        return _finished(finish)

    async def _prompt(self, encodings: Encodings) -> AsyncIterator[GenerateRequest]:
        request = self._request
        yield GenerateRequest(
            header=GenerateHeader(
                max_tokens=request.max_tokens,
                temperature=request.temperature,
                top_p=request.top_p,
                seed=request.seed,
                stop=request.stop,
                tenant=request.tenant,
            )
        )
        for row, message in enumerate(request.messages):
            yield GenerateRequest(message_start=MessageStart(role=_ROLES[message.role]))
            for column, part in enumerate(message.parts):
                if isinstance(part, TextPart):
                    yield GenerateRequest(text=part.text)
                    continue
                # A second attempt needs the tokens too: giving up this one must not give up the encoding.
                for tokens in await asyncio.shield(encodings[row, column]):
                    if isinstance(tokens, SpeechTokens):
                        yield GenerateRequest(speech_tokens=tokens)
                    else:
                        yield GenerateRequest(vision_tokens=tokens)

    async def _speak(self) -> None:
        # The call opens with the first text: a request that still waits for the language model must not hold a place at
        # the voice that the one before it needs to finish.
        request, options, first = self._request, self._request.speech, await self._spoken.get()
        if options is None or first is None:
            return

        async def deltas() -> AsyncIterator[str]:
            text: str | None = first
            while text is not None:
                yield text
                text = await self._spoken.get()

        async with aclosing(speak_deltas(self._services, deltas(), options, request.tenant)) as chunks:
            async for chunk in chunks:
                await self._events.put(AudioChunk(chunk.pcm, chunk.sample_rate))


def _finished(finish: GenerateFinish) -> Finished:
    usage = finish.usage
    return Finished(
        "length" if finish.reason == FINISH_REASON_LENGTH else "stop",
        Usage(usage.prompt_tokens, usage.speech_tokens, usage.vision_tokens, usage.completion_tokens, usage.adapter),
    )


def _first(failures: BaseExceptionGroup) -> BaseException:
    """The error that ended the group."""
    first = failures.exceptions[0]
    return _first(first) if isinstance(first, BaseExceptionGroup) else first
