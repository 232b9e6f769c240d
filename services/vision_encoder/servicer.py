"""The gRPC side of the vision encoder."""

from collections.abc import AsyncIterator

from lyra.v1 import common_pb2, vision_encoder_pb2, vision_encoder_pb2_grpc
from model_core.presets import build_vision_encoder
from model_core.vision.encoder import VisionEncoder, VisionTokens
from model_core.vision.image import decode_image
from services.common import model_service, telemetry, tensors
from services.common.errors import InvalidInput
from services.common.grpc_types import Context
from services.common.interceptors import tenant_of
from services.common.queueing import FairQueue
from services.common.server import ServiceDefinition
from services.common.threads import ModelThread
from services.common.uploads import Upload, header_and_parts
from services.vision_encoder.settings import VisionEncoderSettings

MEDIA_TYPES = ("image/jpeg", "image/png", "image/webp")


class VisionEncoderServicer(vision_encoder_pb2_grpc.VisionEncoderServicer):
    """Receives a picture, checks it against the limits, encodes it, sends its tokens in chunks."""

    def __init__(self, encoder: VisionEncoder, settings: VisionEncoderSettings) -> None:
        self._encoder = encoder
        self._settings = settings
        self._thread = ModelThread("vision-encoder")
        self._queue = FairQueue(waiting_limit=settings.max_waiting, on_change=telemetry.queue_gauges("vision_encoder"))

    async def Encode(
        self, request_iterator: AsyncIterator[vision_encoder_pb2.VisionEncoderEncodeRequest], context: Context
    ) -> AsyncIterator[vision_encoder_pb2.VisionEncoderEncodeResponse]:
        """One picture to its vision tokens."""
        header, pieces = await header_and_parts(request_iterator, "data")
        if header.media_type not in ("", *MEDIA_TYPES):
            raise InvalidInput("media_type", f"{header.media_type!r} is none of {', '.join(MEDIA_TYPES)}")
        with Upload(max_bytes=self._settings.max_image_bytes, field="image") as upload:
            await upload.receive(pieces)
            data = upload.read()
        async with self._queue.slot(tenant_of(context)):
            vision_tokens = await self._thread.run(lambda: self._encode(data))
        time, height, width = vision_tokens.grid
        for chunk in tensors.to_chunks(vision_tokens.tokens.float().numpy()):
            message = common_pb2.VisionTokens(tokens=chunk, grid_time=time, grid_height=height, grid_width=width)
            yield vision_encoder_pb2.VisionEncoderEncodeResponse(vision_tokens=message)

    async def Describe(
        self, request: vision_encoder_pb2.VisionEncoderDescribeRequest, context: Context
    ) -> vision_encoder_pb2.VisionEncoderDescribeResponse:
        """What this service runs."""
        model = common_pb2.ModelDescription(
            preset=self._settings.preset, model=self._encoder.model, token_width=self._encoder.token_width
        )
        return vision_encoder_pb2.VisionEncoderDescribeResponse(model=model, max_pixels=self._settings.max_image_pixels)

    def shut_down(self) -> None:
        """Lets the model's thread end."""
        self._thread.shut_down()

    def _encode(self, data: bytes) -> VisionTokens:
        image = decode_image(data, max_pixels=self._settings.max_image_pixels)
        return self._encoder.encode([image])[0]


def _build(settings: VisionEncoderSettings) -> VisionEncoderServicer:
    return VisionEncoderServicer(build_vision_encoder(settings.preset, settings.home), settings)


DEFINITION: ServiceDefinition[VisionEncoderSettings] = ServiceDefinition(
    name="vision encoder",
    full_name="lyra.v1.VisionEncoder",
    build=_build,
    register=vision_encoder_pb2_grpc.add_VisionEncoderServicer_to_server,
    translate=model_service.translate,
)
