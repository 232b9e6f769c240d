"""The vision encoder service over a real socket, preset tiny."""

import asyncio
import io
from collections.abc import AsyncIterator

import grpc
import numpy as np
import pytest
from PIL import Image
from prometheus_client import REGISTRY

from lyra.v1 import vision_encoder_pb2 as pb
from lyra.v1 import vision_encoder_pb2_grpc
from model_core.vision.encoder import VisionTokens
from model_core.vision.grid import GridVisionEncoder
from services.shared import telemetry
from services.shared.rpc import tensors
from services.shared.service_errors import InvalidInput, from_rpc_error
from tests.conftest import RunningService, StartService
from tests.videos import make_video


def file(kind: str = "PNG", size: tuple[int, int] = (40, 30)) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", size, "red").save(buffer, kind)
    return buffer.getvalue()


class Client:
    """Calls a vision encoder service."""

    def __init__(self, service: RunningService) -> None:
        self.stub = vision_encoder_pb2_grpc.VisionEncoderStub(service.channel)

    async def encode(
        self, data: bytes, media_type: str = "", tenant: str = "acme"
    ) -> list[pb.VisionEncoderEncodeResponse]:
        async def requests() -> AsyncIterator[pb.VisionEncoderEncodeRequest]:
            yield pb.VisionEncoderEncodeRequest(header=pb.VisionEncoderEncodeRequest.Header(media_type=media_type))
            yield pb.VisionEncoderEncodeRequest(data=data)

        try:
            call = self.stub.Encode(requests(), metadata=((telemetry.TENANT_METADATA, tenant),))
            return [response async for response in call]
        except grpc.aio.AioRpcError as error:
            raise from_rpc_error("vision_encoder", error) from error


@pytest.fixture
async def client(start_service: StartService) -> Client:
    return Client(await start_service("vision_encoder"))


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
async def test_picture_becomes_a_grid_of_tokens(client: Client, kind: str) -> None:
    (response,) = await client.encode(file(kind))
    tokens = response.vision_tokens
    cells = tokens.grid_time * tokens.grid_height * tokens.grid_width
    assert tensors.from_message(tokens.tokens.rows, width=16).shape == (cells, 16)
    assert tokens.tokens.rows_total == cells


@pytest.mark.parametrize(
    ("data", "media_type", "field"),
    [
        (b"", "", "image"),
        (b"no picture", "", "image"),
        (file("JPEG")[:-300], "", "image"),
        (file("GIF"), "", "image"),
        (file(), "image/tiff", "media_type"),
    ],
)
async def test_bad_picture_is_refused_by_field(client: Client, data: bytes, media_type: str, field: str) -> None:
    with pytest.raises(InvalidInput) as refusal:
        await client.encode(data, media_type)
    assert refusal.value.field == field


async def test_a_picture_with_too_many_pixels_is_refused_with_the_limit(start_service: StartService) -> None:
    client = Client(await start_service("vision_encoder", max_image_pixels=1000))
    with pytest.raises(InvalidInput, match="1,000"):
        await client.encode(file(size=(50, 50)))


async def test_file_over_the_limit_is_refused(start_service: StartService) -> None:
    client = Client(await start_service("vision_encoder", max_image_bytes=2**20))
    with pytest.raises(InvalidInput, match="image: over the limit of 1 MiB"):
        await client.encode(b"x" * (2**20 + 1))


@pytest.mark.parametrize(
    ("media_type", "kind", "codec"),
    [("video/mp4", "mp4", "libx264"), ("video/webm", "webm", "libvpx"), ("video/quicktime", "mov", "mpeg4")],
)
async def test_a_video_becomes_a_grid_of_tokens_per_frame(
    client: Client, media_type: str, kind: str, codec: str
) -> None:
    (response,) = await client.encode(make_video(kind, codec, seconds=3), media_type)
    tokens = response.vision_tokens
    assert (tokens.grid_time, tokens.grid_height, tokens.grid_width) == (6, 2, 2)
    assert tensors.from_message(tokens.tokens.rows, width=16).shape == (24, 16)


async def test_frames_of_a_video_are_limited(start_service: StartService) -> None:
    client = Client(await start_service("vision_encoder", max_frames=3))
    (response,) = await client.encode(make_video(seconds=3), "video/mp4")
    assert response.vision_tokens.grid_time == 3


@pytest.mark.parametrize(
    ("data", "media_type", "field"),
    [
        (b"", "video/mp4", "video"),
        (b"no video", "video/mp4", "video"),
        (file(), "video/mp4", "video"),
        (make_video()[:1000], "video/mp4", "video"),
        (make_video(), "video/x-msvideo", "media_type"),
        (make_video(), "", "image"),
    ],
)
async def test_bad_video_is_refused_by_field(client: Client, data: bytes, media_type: str, field: str) -> None:
    with pytest.raises(InvalidInput) as refusal:
        await client.encode(data, media_type)
    assert refusal.value.field == field


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ({"max_video_seconds": 1}, "limit of 1 s"),
        ({"max_video_pixels": 3000}, "limit of 3,000 pixels"),
        ({"max_video_bytes": 2**10}, "over the limit of"),
        ({"max_decoding_seconds": 1e-9}, "longer to decode"),
    ],
)
async def test_video_over_a_limit_is_refused(
    start_service: StartService, limits: dict[str, float], message: str
) -> None:
    client = Client(await start_service("vision_encoder", **limits))
    with pytest.raises(InvalidInput, match=message):
        await client.encode(make_video(), "video/mp4")
    assert await client.encode(file())


async def test_service_describes_itself(client: Client) -> None:
    description = await client.stub.Describe(pb.VisionEncoderDescribeRequest())
    assert description.model.token_width == 16
    assert description.max_pixels == 40_000_000
    assert (description.max_video_seconds, description.max_frames) == (1800, 16)


class Cache:
    """Changes of the cache's counters since it was made."""

    def __init__(self) -> None:
        self._before = self._counted()

    @staticmethod
    def _counted() -> tuple[float, float]:
        hits, misses = (
            REGISTRY.get_sample_value(f"lyra_encoder_cache_{name}_total", {"service": "vision_encoder"}) or 0.0
            for name in ("hits", "misses")
        )
        return hits, misses

    def counts(self) -> tuple[float, float]:
        """Hits and misses."""
        hits, misses = self._counted()
        return hits - self._before[0], misses - self._before[1]


async def test_file_that_comes_again_is_not_encoded_again(client: Client) -> None:
    cache, video = Cache(), make_video(seconds=3)
    assert await client.encode(file()) == await client.encode(file())
    assert cache.counts() == (1, 1)
    assert await client.encode(video, "video/mp4") == await client.encode(video, "video/mp4")
    assert cache.counts() == (2, 2)
    await client.encode(file("JPEG"))
    assert cache.counts() == (2, 3)


async def test_tenants_share_nothing(client: Client) -> None:
    cache = Cache()
    first, second = [await client.encode(file(), tenant=tenant) for tenant in ("acme", "globex")]
    assert first == second
    assert cache.counts() == (0, 2)


async def test_same_picture_in_concurrent_calls_is_encoded_once(client: Client) -> None:
    cache = Cache()
    first, *others = await asyncio.gather(*(client.encode(file()) for _ in range(6)))
    assert others == [first] * 5
    assert cache.counts() == (5, 1)


async def test_cache_can_be_turned_off(start_service: StartService) -> None:
    client, cache = Client(await start_service("vision_encoder", encoder_cache_mib=0)), Cache()
    assert await client.encode(file()) == await client.encode(file())
    assert cache.counts() == (0, 0)


async def test_picture_that_cannot_be_decoded_is_refused_each_time(client: Client) -> None:
    results = await asyncio.gather(*(client.encode(b"no picture") for _ in range(3)), return_exceptions=True)
    assert [type(result) for result in results] == [InvalidInput] * 3


async def test_pictures_of_concurrent_calls_get_their_own_tokens(client: Client) -> None:
    files = [file(size=(40 + side, 30)) for side in range(0, 200, 20)]
    alone = [await client.encode(each) for each in files]
    together = await asyncio.gather(*(client.encode(each, tenant="globex") for each in files))
    assert together == alone


async def test_pictures_of_concurrent_calls_share_a_batch_on_an_accelerator(
    start_service: StartService, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(GridVisionEncoder, "one_by_one", False)
    client = Client(
        await start_service("vision_encoder", max_batch_images=4, gather_milliseconds=1000, decoder_processes=4)
    )
    sizes = []

    def encode(encoder: GridVisionEncoder, images: list[Image.Image]) -> list[VisionTokens]:
        sizes.append(len(images))
        return whole(encoder, images)

    whole = GridVisionEncoder.encode
    monkeypatch.setattr(GridVisionEncoder, "encode", encode)
    files = [file(size=(40 + side, 30)) for side in range(4)]
    together = await asyncio.gather(*(client.encode(each) for each in files))
    assert max(sizes) > 1
    assert sum(sizes) == 4
    sizes.clear()
    for picture, (response,) in zip(files, together, strict=True):
        (alone,) = await client.encode(picture, tenant="globex")
        one, other = (tensors.from_message(each.vision_tokens.tokens.rows) for each in (alone, response))
        np.testing.assert_allclose(one, other, atol=1e-4)
    assert sizes == [1] * 4
