"""The gRPC side of the vision encoder."""

from collections.abc import AsyncIterator

from PIL import Image

from lyra.v1 import common_pb2, vision_encoder_pb2, vision_encoder_pb2_grpc
from model_core.presets import build_vision_encoder
from model_core.vision.encoder import VisionEncoder, VisionTokens
from services.shared import telemetry
from services.shared.rpc import model_service, tensors
from services.shared.rpc.grpc_types import Context
from services.shared.rpc.interceptors import tenant_of
from services.shared.rpc.queueing import FairQueue
from services.shared.rpc.server import ServiceDefinition
from services.shared.rpc.threads import ModelThread
from services.shared.rpc.uploads import Upload, header_and_parts
from services.shared.sandbox.cancellation import Cancellation
from services.shared.sandbox.decoders import Decoders, Picture
from services.shared.service_errors import InvalidInput
from services.vision_encoder.settings import VisionEncoderSettings

IMAGE_TYPES = ("image/jpeg", "image/png", "image/webp")
VIDEO_TYPES = ("video/mp4", "video/webm", "video/quicktime")


class VisionEncoderServicer(vision_encoder_pb2_grpc.VisionEncoderServicer):
    """Receives an image or a video, checks it against the limits, encodes it, and sends its tokens in chunks."""

    def __init__(self, encoder: VisionEncoder, settings: VisionEncoderSettings) -> None:
        self._encoder = encoder
        self._settings = settings
        self._thread = ModelThread("vision-encoder")
        self._decoders = Decoders(settings)
        self._decoders.start()
        # One video at a time is held in memory as frames; decoding it does not block images.
        self._videos = FairQueue(waiting_limit=settings.max_waiting)
        self._queue = FairQueue(waiting_limit=settings.max_waiting, on_change=telemetry.queue_gauges("vision_encoder"))

    async def Encode(
        self, request_iterator: AsyncIterator[vision_encoder_pb2.VisionEncoderEncodeRequest], context: Context
    ) -> AsyncIterator[vision_encoder_pb2.VisionEncoderEncodeResponse]:
        """Turns an image or a video into vision tokens."""
        header, pieces = await header_and_parts(request_iterator, "data")
        if header.media_type in VIDEO_TYPES:
            vision_tokens = await self._encode_video(pieces, tenant_of(context))
        elif header.media_type in ("", *IMAGE_TYPES):
            vision_tokens = await self._encode_image(pieces, tenant_of(context))
        else:
            known = ", ".join((*IMAGE_TYPES, *VIDEO_TYPES))
            raise InvalidInput("media_type", f"{header.media_type[:100]!r} is not one of {known}")
        time, height, width = vision_tokens.grid
        for chunk in tensors.to_chunks(vision_tokens.tokens.float().cpu().numpy()):
            message = common_pb2.VisionTokens(tokens=chunk, grid_time=time, grid_height=height, grid_width=width)
            yield vision_encoder_pb2.VisionEncoderEncodeResponse(vision_tokens=message)

    async def Describe(
        self, request: vision_encoder_pb2.VisionEncoderDescribeRequest, context: Context
    ) -> vision_encoder_pb2.VisionEncoderDescribeResponse:
        """Model and limits of this service."""
        model = common_pb2.ModelDescription(
            preset=self._settings.preset, model=self._encoder.model, token_width=self._encoder.token_width
        )
        return vision_encoder_pb2.VisionEncoderDescribeResponse(
            model=model,
            max_pixels=self._settings.max_image_pixels,
            max_video_seconds=self._settings.max_video_seconds,
            max_frames=self._settings.max_frames,
        )

    def shut_down(self) -> None:
        """Stops the decoders and the thread."""
        self._decoders.close()
        self._thread.shut_down()

    async def _encode_image(self, pieces: AsyncIterator[bytes], tenant: str) -> VisionTokens:
        with Upload(max_bytes=self._settings.max_image_bytes, field="image") as upload:
            await upload.receive(pieces)

            def decode(cancellation: Cancellation) -> Image.Image:
                limit = self._settings.max_image_pixels
                found = self._decoders.picture(
                    upload.source(), max_pixels=limit, tenant=tenant, cancellation=cancellation
                )
                return _as_image(found)

            # One image at a time is held in memory as pixels: it is decoded once the model is free.
            async with self._queue.slot(tenant):
                image = await self._decoders.run(decode)
                tokens = (await self._thread.run(lambda: self._encoder.encode([image])))[0]
        telemetry.BATCH_SIZE.labels("vision_encoder").observe(1)
        return tokens

    async def _encode_video(self, pieces: AsyncIterator[bytes], tenant: str) -> VisionTokens:
        settings = self._settings
        with Upload(max_bytes=settings.max_video_bytes, field="video") as upload:
            await upload.receive(pieces)

            def sample(cancellation: Cancellation) -> list[Image.Image]:
                found = self._decoders.frames(
                    upload.source(),
                    max_frames=settings.max_frames,
                    max_seconds=settings.max_video_seconds,
                    max_pixels=settings.max_video_pixels,
                    max_decoding_seconds=settings.max_decoding_seconds,
                    tenant=tenant,
                    cancellation=cancellation,
                )
                return [_as_image(frame) for frame in found]

            async with self._videos.slot(tenant):
                frames = await self._decoders.run(sample)
                async with self._queue.slot(tenant):
                    tokens = await self._thread.run(lambda: self._encoder.encode_video(frames))
        telemetry.BATCH_SIZE.labels("vision_encoder").observe(len(frames))
        return tokens


def _as_image(picture: Picture) -> Image.Image:
    return Image.frombytes("RGB", (picture.width, picture.height), picture.rgb)


def _build(settings: VisionEncoderSettings) -> VisionEncoderServicer:
    return VisionEncoderServicer(
        build_vision_encoder(settings.preset, settings.home, checkpoint=settings.checkpoint, device=settings.device),
        settings,
    )


DEFINITION: ServiceDefinition[VisionEncoderSettings] = ServiceDefinition(
    name="vision encoder",
    full_names=("lyra.v1.VisionEncoder",),
    build=_build,
    register=vision_encoder_pb2_grpc.add_VisionEncoderServicer_to_server,
    translate=model_service.translate,
)
