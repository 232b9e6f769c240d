"""The gRPC side of the vision encoder."""

import asyncio
from collections.abc import AsyncIterator
from functools import partial

import torch
from PIL import Image

from lyra.v1 import common_pb2, vision_encoder_pb2, vision_encoder_pb2_grpc
from model_core.presets import build_vision_encoder
from model_core.vision.encoder import VisionEncoder, VisionTokens
from services.shared import telemetry
from services.shared.content_cache import ContentCache, content_key
from services.shared.rpc import model_service, tensors
from services.shared.rpc.batching import Batcher, GatherWindow
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
    """Receives images and videos, checks them against the limits, encodes them, and sends their tokens in chunks.

    Images of concurrent calls are encoded in batches; the tokens of a file that came before are cached.
    """

    def __init__(self, encoder: VisionEncoder, settings: VisionEncoderSettings) -> None:
        self._encoder = encoder
        self._settings = settings
        self._thread = ModelThread("vision-encoder")
        self._decoders = Decoders(settings)
        self._decoders.start()
        self._cache = ContentCache[VisionTokens](
            "vision_encoder", settings.encoder_cache_mib * 2**20, lambda found: found.tokens.nbytes
        )
        # One video at a time is held in memory as frames; decoding it does not block images.
        self._videos = FairQueue(waiting_limit=settings.max_waiting)
        # Images are decoded while the batch before is encoded.
        max_images = 1 if encoder.one_by_one else settings.max_batch_images
        self._queue = FairQueue(
            running_limit=2 * max_images,
            waiting_limit=settings.max_waiting,
            on_change=telemetry.queue_gauges("vision_encoder"),
        )
        # Bounds memory: a decoded image is held in full size until it is fitted to the model.
        self._full_size = asyncio.Semaphore(settings.decoder_processes)
        self._window = GatherWindow(settings.gather_milliseconds)
        self._batches = Batcher(self._encode_batch, self._thread, max_items=max_images, window=self._window)

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
        for chunk in tensors.to_chunks(vision_tokens.tokens.numpy()):
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
            key = await self._key(upload, "image", tenant)
            return await self._cache.get(key, partial(self._decode_and_encode, upload, tenant))

    async def _decode_and_encode(self, upload: Upload, tenant: str) -> VisionTokens:
        def decode(cancellation: Cancellation) -> Image.Image:
            limit = self._settings.max_image_pixels
            found = self._decoders.picture(upload.source(), max_pixels=limit, tenant=tenant, cancellation=cancellation)
            return self._encoder.fit(_as_image(found))

        async with self._queue.slot(tenant):
            with self._window.arriving():
                async with self._full_size:
                    image = await self._decoders.run(decode)
            return await self._batches.submit(image)

    async def _encode_video(self, pieces: AsyncIterator[bytes], tenant: str) -> VisionTokens:
        with Upload(max_bytes=self._settings.max_video_bytes, field="video") as upload:
            await upload.receive(pieces)
            key = await self._key(upload, "video", tenant)
            return await self._cache.get(key, partial(self._sample_and_encode, upload, tenant))

    async def _sample_and_encode(self, upload: Upload, tenant: str) -> VisionTokens:
        settings = self._settings

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
                tokens = await self._thread.run(lambda: _on_cpu(self._encoder.encode_video(frames)))
        telemetry.BATCH_SIZE.labels("vision_encoder").observe(len(frames))
        return tokens

    def _encode_batch(self, images: list[Image.Image]) -> list[VisionTokens]:
        found = [_on_cpu(tokens) for tokens in self._encoder.encode(images)]
        telemetry.BATCH_SIZE.labels("vision_encoder").observe(len(images))
        return found

    async def _key(self, upload: Upload, kind: str, tenant: str) -> bytes:
        digest = await asyncio.to_thread(upload.digest)
        return content_key(digest, self._settings.preset, self._encoder.model, kind, tenant)


def _on_cpu(found: VisionTokens) -> VisionTokens:
    """In memory that they alone use, so that they can be cached."""
    return VisionTokens(found.tokens.to("cpu", torch.float32, copy=True), found.grid)


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
