"""Clients of the four model services: channels, stubs, deadlines, and what the services say of themselves."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Self

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from lyra.v1.language_model_pb2_grpc import LanguageModelStub
from lyra.v1.speech_encoder_pb2_grpc import SpeechEncoderStub
from lyra.v1.speech_synthesizer_pb2_grpc import SpeechSynthesizerStub
from lyra.v1.vision_encoder_pb2_grpc import VisionEncoderStub
from services.shared.pipeline.description_cache import DescriptionCache
from services.shared.rpc.channels import NO_CREDENTIALS, open_channel
from services.shared.rpc.credentials import ClientCredentials
from services.shared.telemetry import UNSERVED

if TYPE_CHECKING:
    from lyra.v1.language_model_pb2_grpc import LanguageModelAsyncStub
    from lyra.v1.speech_encoder_pb2_grpc import SpeechEncoderAsyncStub
    from lyra.v1.speech_synthesizer_pb2_grpc import SpeechSynthesizerAsyncStub
    from lyra.v1.vision_encoder_pb2_grpc import VisionEncoderAsyncStub

SPEECH_ENCODER = "speech_encoder"
VISION_ENCODER = "vision_encoder"
LANGUAGE_MODEL = "language_model"
SPEECH_SYNTHESIZER = "speech_synthesizer"
_NOWHERE = "127.0.0.1:1"
NAMES = (SPEECH_ENCODER, VISION_ENCODER, LANGUAGE_MODEL, SPEECH_SYNTHESIZER)


@dataclass(frozen=True, slots=True, kw_only=True)
class Deadlines:
    """Deadlines of calls in seconds, from their first byte to their last."""

    encode: float = 120.0
    transcribe: float = 900.0
    generate: float = 900.0
    synthesize: float = 900.0
    describe: float = 5.0
    adapter: float = 600.0  # loading waits for the disk, unloading for running requests that use it
    health: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelClients:
    """Clients of the four services. Opening does not connect: a service may start later, or come back."""

    channels: Mapping[str, grpc.aio.Channel]
    speech_encoder: "SpeechEncoderAsyncStub"
    vision_encoder: "VisionEncoderAsyncStub"
    language_model: "LanguageModelAsyncStub"
    speech_synthesizer: "SpeechSynthesizerAsyncStub"
    descriptions: DescriptionCache
    deadlines: Deadlines = field(default_factory=Deadlines)

    @classmethod
    def open(
        cls,
        addresses: Mapping[str, str],
        deadlines: Deadlines | None = None,
        credentials: ClientCredentials = NO_CREDENTIALS,
    ) -> Self:
        """Clients of the services at `addresses`, by name; one without an address is unavailable.

        Call it in a running event loop.
        """
        for name in NAMES:
            UNSERVED.labels(name)  # exported as 0 from the start, so that the first one shows as an increase
        channels = {name: open_channel(addresses.get(name, _NOWHERE), credentials) for name in NAMES}
        return cls(
            channels=channels,
            speech_encoder=SpeechEncoderStub(channels[SPEECH_ENCODER]),
            vision_encoder=VisionEncoderStub(channels[VISION_ENCODER]),
            language_model=LanguageModelStub(channels[LANGUAGE_MODEL]),
            speech_synthesizer=SpeechSynthesizerStub(channels[SPEECH_SYNTHESIZER]),
            descriptions=DescriptionCache(channels),
            deadlines=deadlines or Deadlines(),
        )

    async def close(self) -> None:
        """Ends all calls and closes the channels."""
        await self.descriptions.close()
        await asyncio.gather(*(channel.close(None) for channel in self.channels.values()))

    async def health(self) -> dict[str, str]:
        """Each service's state: "SERVING", "NOT_SERVING" or "UNREACHABLE"."""
        states = await asyncio.gather(*(self._health(name) for name in NAMES))
        return dict(zip(NAMES, states, strict=True))

    async def _health(self, name: str) -> str:
        stub = health_pb2_grpc.HealthStub(self.channels[name])
        try:
            response = await stub.Check(health_pb2.HealthCheckRequest(), timeout=self.deadlines.health)
        except grpc.aio.AioRpcError:
            return "UNREACHABLE"
        return str(health_pb2.HealthCheckResponse.ServingStatus.Name(response.status))
