"""Answers a request: encodes its parts concurrently, streams the prompt to the language model, speaks the answer."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import aclosing
from dataclasses import replace

from lyra.v1.common_pb2 import SpeechTokens
from lyra.v1.language_model_pb2 import (
    FINISH_REASON_LENGTH,
    PRIORITY_BATCH,
    PRIORITY_INTERACTIVE,
    ROLE_ASSISTANT,
    ROLE_SYSTEM,
    ROLE_USER,
    GenerateFinish,
    GenerateRequest,
    GenerateResponse,
    MessageStart,
)
from lyra.v1.language_model_pb2 import Role as RoleMessage
from lyra.v1.language_model_pb2 import TextDelta as TextDeltaMessage
from lyra.v1.language_model_pb2 import TokenLogprob as TokenLogprobMessage
from services.shared.pipeline.calls import exchange, with_retries
from services.shared.pipeline.clients import LANGUAGE_MODEL, ModelClients
from services.shared.pipeline.encodings import Encodings
from services.shared.pipeline.messages import (
    AnswerEvent,
    AnswerRequest,
    AudioChunk,
    Finished,
    Role,
    SpeechTokensPart,
    TextDelta,
    TextPart,
    TokenLogprob,
    Usage,
)
from services.shared.pipeline.speak import SpeechInput, speak_deltas, speaks_hidden_states
from services.shared.rpc import sampling_codec
from services.shared.service_errors import Failed, InvalidInput

# Events buffered for a slow reader, and deltas for a slow voice; beyond that, backpressure reaches the services.
_MAX_EVENTS_BUFFERED = 16
_MAX_DELTAS_BUFFERED = 256

_ROLES: Mapping[Role, RoleMessage.ValueType] = {
    Role.SYSTEM: ROLE_SYSTEM,
    Role.USER: ROLE_USER,
    Role.ASSISTANT: ROLE_ASSISTANT,
}


async def answer(clients: ModelClients, request: AnswerRequest) -> AsyncGenerator[AnswerEvent, None]:
    """Yields text deltas and, if speech is requested, audio chunks between them; then one Finished.

    Leaving the iteration (aclose, cancellation) cancels the calls to all services at once. Raises ServiceError;
    InvalidInput names the caller's own fields.
    """
    events: asyncio.Queue[AnswerEvent | Exception] = asyncio.Queue(_MAX_EVENTS_BUFFERED)
    messages = tuple(message.with_tracks() for message in request.messages)
    worker = asyncio.create_task(_Answer(clients, replace(request, messages=messages), events).run())
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
    """The calls of one answer, in one task group: the first that fails cancels the others."""

    def __init__(
        self, clients: ModelClients, request: AnswerRequest, events: asyncio.Queue[AnswerEvent | Exception]
    ) -> None:
        self._clients = clients
        self._request = request
        self._events = events
        self._hidden_states = False
        # None ends the answer.
        self._spoken: asyncio.Queue[SpeechInput | None] = asyncio.Queue(_MAX_DELTAS_BUFFERED)

    async def run(self) -> None:
        try:
            await self._events.put(await self._answer())
        except InvalidInput as error:
            path = self._request.paths.get(error.field, error.field)
            await self._events.put(InvalidInput(path, error.message))
        except Exception as error:
            await self._events.put(error)

    async def _answer(self) -> Finished:
        request = self._request
        if request.speech is not None:
            voice = request.speech.voice
            self._hidden_states = await speaks_hidden_states(self._clients, voice, request.tenant)
        try:
            async with asyncio.TaskGroup() as group:
                encodings = Encodings(self._clients, request, group)
                if request.speech is not None:
                    group.create_task(self._speak())
                return await self._generate(encodings)
        except BaseExceptionGroup as failures:
            raise _first_error(failures) from None

    async def _generate(self, encodings: Encodings) -> Finished:
        clients, finish = self._clients, None

        def attempt() -> AsyncGenerator[GenerateResponse, None]:
            method, seconds = clients.language_model.Generate, clients.deadlines.generate
            prompt = self._prompt(encodings)
            return exchange(LANGUAGE_MODEL, method, prompt, seconds=seconds, tenant=self._request.tenant)

        async with aclosing(with_retries(LANGUAGE_MODEL, attempt)) as responses:
            async for response in responses:
                if response.WhichOneof("event") == "finish":
                    finish = response.finish
                else:
                    await self._forward(response.text_delta)
        await self._spoken.put(None)
        if finish is None:
            raise Failed(f"the {LANGUAGE_MODEL} ended its response without a finish reason")
        return _finished(finish)

    async def _forward(self, delta: TextDeltaMessage) -> None:
        if delta.text or delta.logprobs:
            await self._events.put(TextDelta(delta.text, tuple(map(_logprob, delta.logprobs))))
        if self._request.speech is None:
            return
        if self._hidden_states and delta.HasField("hidden_states"):
            await self._spoken.put(delta.hidden_states)
        elif not self._hidden_states and delta.text:
            await self._spoken.put(delta.text)

    async def _prompt(self, encodings: Encodings) -> AsyncIterator[GenerateRequest]:
        request = self._request
        yield GenerateRequest(
            header=sampling_codec.to_header(
                request.sampling,
                tenant=request.tenant,
                adapter=request.adapter,
                keep_rate=request.keep_rate,
                blocks=request.blocks,
                priority=PRIORITY_BATCH if request.in_background else PRIORITY_INTERACTIVE,
                hidden_states=self._hidden_states,
            )
        )
        for row, message in enumerate(request.messages):
            yield GenerateRequest(message_start=MessageStart(role=_ROLES[message.role]))
            for column, part in enumerate(message.parts):
                if isinstance(part, TextPart):
                    yield GenerateRequest(text=part.text)
                    continue
                if isinstance(part, SpeechTokensPart):
                    for speech in part.tokens:
                        yield GenerateRequest(speech_tokens=speech)
                    continue
                for tokens in await encodings.tokens((row, column)):
                    if isinstance(tokens, SpeechTokens):
                        yield GenerateRequest(speech_tokens=tokens)
                    else:
                        yield GenerateRequest(vision_tokens=tokens)

    async def _speak(self) -> None:
        # The call starts with the first delta: a request that waits for the language model must not occupy a slot of
        # the synthesizer that another request needs to finish.
        request, options, first = self._request, self._request.speech, await self._spoken.get()
        if options is None or first is None:
            return

        async def deltas() -> AsyncIterator[SpeechInput]:
            delta: SpeechInput | None = first
            while delta is not None:
                yield delta
                delta = await self._spoken.get()

        async with aclosing(speak_deltas(self._clients, deltas(), options, request.tenant)) as chunks:
            async for chunk in chunks:
                await self._events.put(AudioChunk(chunk.pcm, chunk.sample_rate))


def _logprob(message: TokenLogprobMessage) -> TokenLogprob:
    return TokenLogprob(message.token, message.token_bytes, message.logprob, tuple(map(_logprob, message.top_logprobs)))


def _finished(finish: GenerateFinish) -> Finished:
    usage = finish.usage
    return Finished(
        "length" if finish.reason == FINISH_REASON_LENGTH else "stop",
        Usage(
            prompt_tokens=usage.prompt_tokens,
            speech_tokens=usage.speech_tokens,
            vision_tokens=usage.vision_tokens,
            completion_tokens=usage.completion_tokens,
            adapter=usage.adapter,
            context_tokens=tuple(usage.context_tokens),
            cached_tokens=usage.cached_tokens,
        ),
    )


def _first_error(failures: BaseExceptionGroup) -> BaseException:
    """The error that cancelled the task group."""
    first = failures.exceptions[0]
    return _first_error(first) if isinstance(first, BaseExceptionGroup) else first
