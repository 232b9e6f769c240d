"""Encodes the parts of one request concurrently, all its speech by one projector."""

import asyncio
from collections.abc import Mapping

from lyra.v1.common_pb2 import SpeechTokens, VisionTokens
from model_core.adapter_choice import choose_projector
from services.shared.pipeline.clients import ModelClients
from services.shared.pipeline.describe import describe_language_model, describe_speech_encoder
from services.shared.pipeline.encode import encode_image, encode_speech
from services.shared.pipeline.messages import AnswerRequest, AudioPart, ImagePart

# Parts of one request that are encoded concurrently.
_MAX_CONCURRENT = 4

# Position of a part: index of its message, index in the message.
Position = tuple[int, int]
Recordings = Mapping[Position, list[SpeechTokens]]


class Encodings:
    """Encodes the parts of `request` in tasks of `group`, which start at once.

    Published models read all recordings of a request with one adapter, chosen by the number of their clips together,
    and each adapter has its own projector. Recordings that another adapter's projector encoded are encoded again.
    """

    def __init__(self, clients: ModelClients, request: AnswerRequest, group: asyncio.TaskGroup) -> None:
        self._clients = clients
        self._request = request
        self._slots = asyncio.Semaphore(_MAX_CONCURRENT)
        parts = {
            (row, column): part
            for row, message in enumerate(request.messages)
            for column, part in enumerate(message.parts)
        }
        self._images = {
            position: group.create_task(self._encode_image(part))
            for position, part in parts.items()
            if isinstance(part, ImagePart)
        }
        recordings = {position: part for position, part in parts.items() if isinstance(part, AudioPart)}
        self._recordings = group.create_task(self._encode_recordings(recordings))

    async def tokens(self, position: Position) -> list[SpeechTokens | VisionTokens]:
        """Tokens of the part at `position`. May be called again: cancelling it does not cancel the encoding."""
        if position in self._images:
            return list(await asyncio.shield(self._images[position]))
        return list((await asyncio.shield(self._recordings))[position])

    async def _encode_image(self, part: ImagePart) -> list[VisionTokens]:
        async with self._slots:
            return await encode_image(self._clients, part, self._request.tenant)

    async def _encode_recordings(self, parts: Mapping[Position, AudioPart]) -> Recordings:
        # Each recording except that of a video has at least one clip: for several, the adapter is known beforehand.
        encoded = await self._encode_all(parts, await self._adapter(sum(not part.of_video for part in parts.values())))
        adapter = await self._adapter(sum(len({each.clip_index for each in tokens}) for tokens in encoded.values()))
        others = {
            position: part
            for position, part in parts.items()
            if adapter and any(t.adapter != adapter for t in encoded[position])
        }
        return {**encoded, **await self._encode_all(others, adapter)}

    async def _encode_all(self, parts: Mapping[Position, AudioPart], adapter: str) -> Recordings:
        async def encode(part: AudioPart) -> list[SpeechTokens]:
            async with self._slots:
                return await encode_speech(self._clients, part, self._request.tenant, adapter)

        async with asyncio.TaskGroup() as group:
            tasks = {position: group.create_task(encode(part)) for position, part in parts.items()}
        return {position: task.result() for position, task in tasks.items()}

    async def _adapter(self, clips: int) -> str:
        """The adapter whose projector encodes a request with this many clips; empty to let the encoder choose."""
        named = self._request.adapter
        if not clips or (not named and clips == 1):
            return ""
        tenant = self._request.tenant
        encoder, model = await asyncio.gather(
            describe_speech_encoder(self._clients, tenant), describe_language_model(self._clients, tenant)
        )
        if named and named not in encoder.model.adapters:  # it may have been loaded since the encoder was asked
            encoder = await describe_speech_encoder(self._clients, tenant, fresh=True)
        return choose_projector(encoder.model.adapters, model.model.adapters, clips=clips, named=named)
