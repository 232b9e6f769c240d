"""The oracle is transformers itself: its processor and its vision tower, called as its users call them."""

from typing import Any

import numpy as np
import pytest
import torch
from einops import rearrange
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor
from transformers import Qwen2VLImageProcessorPil

from model_core.vision.qwen import QwenVisionEncoder, fitted
from tests.pictures import noise

TINY = QwenVisionEncoder.Config(model="tiny", token_width=24, width=32, layers=2, heads=2)


@pytest.fixture(scope="module")
def encoder() -> QwenVisionEncoder:
    torch.manual_seed(0)
    return TINY.build()


def tower(encoder: QwenVisionEncoder, patches: Tensor, grid: tuple[int, int, int]) -> Tensor:
    with torch.no_grad():
        return encoder.vision_tower(patches, grid_thw=torch.tensor([grid])).pooler_output


def processed(image: Image.Image, **options: Any) -> tuple[Tensor, list[int]]:
    features = Qwen2VLImageProcessorPil(max_pixels=28 * 28 * 16_384, **options)(image, return_tensors="pt")
    return features["pixel_values"], features["image_grid_thw"][0].tolist()


@pytest.mark.parametrize("size", [(56, 56), (200, 91), (30, 400), (448, 336)])
def test_tokens_of_a_picture_equal_those_of_transformers(encoder: QwenVisionEncoder, size: tuple[int, int]) -> None:
    image = noise(*size)
    patches, (_, height, width) = processed(image)
    (encoded,) = encoder.encode([image])
    assert encoded.grid == (1, height // 2, width // 2)
    expected = tower(encoder, patches, (1, height, width))
    torch.testing.assert_close(encoded.tokens, expected, atol=1e-5, rtol=1e-5)


def test_a_picture_is_encoded_the_same_alone_and_in_a_batch(encoder: QwenVisionEncoder) -> None:
    images = [noise(70, 90, 1), noise(120, 60, 2)]
    for image, together in zip(images, encoder.encode(images), strict=True):
        torch.testing.assert_close(encoder.encode([image])[0].tokens, together.tokens, atol=1e-5, rtol=1e-5)
    assert encoder.encode([]) == []


def test_fitted_picture_gives_the_same_tokens(encoder: QwenVisionEncoder) -> None:
    images = [noise(200, 91), noise(3000, 20), noise(10, 80)]
    for whole, small in zip(
        encoder.encode(images), encoder.encode([encoder.fit(each) for each in images]), strict=True
    ):
        torch.testing.assert_close(small.tokens, whole.tokens, atol=0, rtol=0)


def test_video_joins_two_frames_in_a_patch_in_the_published_order(encoder: QwenVisionEncoder) -> None:
    frames = [noise(84, 56, seed) for seed in range(4)]
    # Without resizing, pixels can be laid out by hand: grid, then merge block, then channel, time, row, column.
    pixels = torch.from_numpy(np.stack([np.asarray(frame) for frame in frames])).double() / 255
    processor = Qwen2VLImageProcessorPil()
    normal = (pixels - torch.tensor(processor.image_mean)) / torch.tensor(processor.image_std)
    patches = rearrange(
        normal,
        "(g t) (gh mh p1) (gw mw p2) c -> (g gh gw mh mw) (c t p1 p2)",
        t=2, mh=2, mw=2, p1=14, p2=14,
    ).float()  # fmt: skip
    encoded = encoder.encode_video(frames)
    assert encoded.grid == (2, 2, 3)
    torch.testing.assert_close(encoded.tokens, tower(encoder, patches, (2, 4, 6)), atol=1e-5, rtol=1e-5)


def test_the_last_frame_is_repeated_if_their_number_is_odd(encoder: QwenVisionEncoder) -> None:
    frames = [noise(60, 60, seed) for seed in range(3)]
    odd, even = encoder.encode_video(frames), encoder.encode_video([*frames, frames[-1]])
    assert odd.grid == even.grid == (2, 2, 2)
    torch.testing.assert_close(odd.tokens, even.tokens)


def test_a_still_video_equals_its_picture_in_each_time_step(encoder: QwenVisionEncoder) -> None:
    image = noise(100, 70)
    (still,) = encoder.encode([image])
    moving = encoder.encode_video([image] * 4)
    assert moving.grid == (2, *still.grid[1:])
    torch.testing.assert_close(moving.tokens, still.tokens.repeat(2, 1), atol=1e-5, rtol=1e-5)


def test_frames_share_the_pixel_budget_of_the_clip() -> None:
    torch.manual_seed(0)
    small = QwenVisionEncoder.Config(
        model="tiny", token_width=8, width=16, layers=1, heads=2, max_clip_pixels=28 * 28 * 40
    )
    encoder = small.build()
    for count in (1, 2, 4, 8):
        time, height, width = encoder.encode_video([noise(280, 280)] * count).grid
        assert time == -(-count // 2)
        assert height * width * count <= 40


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((640, 480), (640, 480)),
        ((5760, 1000), (2880, 500)),
        ((1000, 5761), (499, 2880)),
        ((1, 1), (28, 28)),
        ((10, 400), (28, 400)),
        ((10_000, 3), (2880, 28)),
    ],
)
def test_sides_are_scaled_into_the_published_bounds(size: tuple[int, int], expected: tuple[int, int]) -> None:
    assert fitted(Image.new("RGB", size)).size == expected


@settings(max_examples=40)
@given(st.integers(1, 5000), st.integers(1, 5000))
def test_every_picture_is_within_the_limits_of_qwens_processor(width: int, height: int) -> None:
    image = fitted(Image.new("1", (width, height)))
    assert image.mode == "RGB"
    assert min(image.size) >= 28
    assert max(image.size) <= 2880
    assert max(image.size) / min(image.size) <= 200


def test_scaling_takes_the_nearest_pixel() -> None:
    colours = set(np.asarray(fitted(noise(3000, 20))).reshape(-1, 3).sum(axis=1).tolist())
    assert colours <= set(np.asarray(noise(3000, 20)).reshape(-1, 3).sum(axis=1).tolist())


def test_tensors_have_the_names_of_published_checkpoints(encoder: QwenVisionEncoder) -> None:
    names = set(encoder.state_dict())
    assert all(name.startswith("vision_tower.") for name in names)
    for name in ("patch_embed.proj.weight", "blocks.1.attn.qkv.bias", "merger.ln_q.weight", "merger.mlp.2.bias"):
        assert f"vision_tower.{name}" in names


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_tower_built_on_meta_works_once_it_has_its_weights(encoder: QwenVisionEncoder, dtype: torch.dtype) -> None:
    with torch.device("meta"):
        loaded = TINY.build()
    loaded.load_state_dict({name: tensor.to(dtype) for name, tensor in encoder.state_dict().items()}, assign=True)
    images = [noise(90, 60)]
    tolerance = 1e-5 if dtype == torch.float32 else 0.1
    expected, tokens = encoder.encode(images)[0].tokens, loaded.encode(images)[0].tokens
    assert tokens.dtype == torch.float32
    torch.testing.assert_close(tokens, expected, atol=tolerance, rtol=tolerance)
    assert loaded.vision_tower.rotary_pos_emb.inv_freq.dtype == torch.float32


def test_tower_is_frozen(encoder: QwenVisionEncoder) -> None:
    assert not any(parameter.requires_grad for parameter in encoder.parameters())
