"""The tokens of one request: its parts are encoded side by side, all its speech by one projector."""

import asyncio
from collections.abc import Mapping

from lyra.v1.common_pb2 import SpeechTokens, VisionTokens
from model_core.adapter_choice import choose_projector
from services.shared.pipeline.clients import ModelClients
from services.shared.pipeline.describe import describe_language_model, describe_speech_encoder
from services.shared.pipeline.encode import encode_image, encode_speech
from services.shared.pipeline.messages import AnswerRequest, AudioPart, ImagePart

# Parts of one request that are encoded at the same time.
_ENCODING_AT_ONCE = 4

# Where a part stands: message, part of it.
Place = tuple[int, int]
Recordings = Mapping[Place, list[SpeechTokens]]


class Encodings:
    """Encodes the parts of `request` in tasks of `group`, from the beginning.

    Published models read all recordings of a request with one adapter, chosen by their clips together, and each adapter
    has a projector of its own. What was encoded by another one than the language model will use is encoded again.
    """

    def __init__(self, services: ModelClients, request: AnswerRequest, group: asyncio.TaskGroup) -> None:
        self._services = services
        self._request = request
        self._slots = asyncio.Semaphore(_ENCODING_AT_ONCE)
        parts = {
            (row, column): part
            for row, message in enumerate(request.messages)
            for column, part in enumerate(message.parts)
        }
        self._pictures = {
            place: group.create_task(self._encode_image(part))
            for place, part in parts.items()
            if isinstance(part, ImagePart)
        }
        recordings = {place: part for place, part in parts.items() if isinstance(part, AudioPart)}
        self._recordings = group.create_task(self._encode_recordings(recordings))

    async def tokens(self, place: Place) -> list[SpeechTokens | VisionTokens]:
        """What the part became. May be asked for again: giving up a call does not give up the encoding."""
        if place in self._pictures:
            return list(await asyncio.shield(self._pictures[place]))
        return list((await asyncio.shield(self._recordings))[place])

    async def _encode_image(self, part: ImagePart) -> list[VisionTokens]:
        async with self._slots:
            return await encode_image(self._services, part, self._request.tenant)

    async def _encode_recordings(self, parts: Mapping[Place, AudioPart]) -> Recordings:
        # Each recording but that of a video has at least one clip: the adapter for several is known beforehand.
        encoded = await self._encode_all(parts, await self._adapter(sum(not part.of_video for part in parts.values())))
        adapter = await self._adapter(sum(len({each.clip_index for each in tokens}) for tokens in encoded.values()))
        others = {
            place: part
            for place, part in parts.items()
            if adapter and any(t.adapter != adapter for t in encoded[place])
        }
        return {**encoded, **await self._encode_all(others, adapter)}

    async def _encode_all(self, parts: Mapping[Place, AudioPart], adapter: str) -> Recordings:
        async def encode(part: AudioPart) -> list[SpeechTokens]:
            async with self._slots:
                return await encode_speech(self._services, part, self._request.tenant, adapter)

        async with asyncio.TaskGroup() as group:
            tasks = {place: group.create_task(encode(part)) for place, part in parts.items()}
        return {place: task.result() for place, task in tasks.items()}

    async def _adapter(self, clips: int) -> str:
        """Whose projector makes the speech tokens of a request with so many clips; empty for the encoder's choice."""
        named = self._request.adapter
        if not clips or (not named and clips == 1):
            return ""
        tenant = self._request.tenant
        encoder, model = await asyncio.gather(
            describe_speech_encoder(self._services, tenant), describe_language_model(self._services, tenant)
        )
        if named and named not in encoder.model.adapters:  # it may have been loaded since the encoder was asked
            encoder = await describe_speech_encoder(self._services, tenant, fresh=True)
        return choose_projector(encoder.model.adapters, model.model.adapters, clips=clips, named=named)
