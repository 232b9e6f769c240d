"""The oracle is transformers itself: its processor and its vision tower, called as its users call them."""

import pytest
import torch
from PIL import Image
from transformers import CLIPImageProcessorPil

from model_core.vision.clip import ClipVisionEncoder
from tests.pictures import noise

TINY = ClipVisionEncoder.Config(
    model="tiny", token_width=24, image_size=56, width=32, layers=3, heads=2, feed_forward=64
)


@pytest.fixture(scope="module")
def encoder() -> ClipVisionEncoder:
    torch.manual_seed(0)
    return TINY.build()


def test_tokens_are_the_projected_patches_of_the_penultimate_layer(encoder: ClipVisionEncoder) -> None:
    image = noise(90, 90)
    processor = CLIPImageProcessorPil(size={"shortest_edge": 56}, crop_size={"height": 56, "width": 56})
    pixels = processor(image, return_tensors="pt")["pixel_values"]
    tower = encoder.vision_tower
    with torch.no_grad():
        hidden = tower.pre_layrnorm(tower.embeddings(pixels))
        for layer in tower.encoder.layers[:-1]:
            hidden = layer(hidden, attention_mask=None)
        expected = encoder.mm_projector(hidden[:, 1:])[0]
    (encoded,) = encoder.encode([image])
    assert encoded.grid == (1, 4, 4)
    torch.testing.assert_close(encoded.tokens, expected, atol=1e-5, rtol=1e-5)


def test_a_picture_is_padded_to_a_square_and_not_cropped(encoder: ClipVisionEncoder) -> None:
    wide = noise(80, 40)
    square = Image.new("RGB", (80, 80), (122, 116, 104))
    square.paste(wide, (0, 20))
    first, second = encoder.encode([wide, square])
    torch.testing.assert_close(first.tokens, second.tokens)


def test_a_picture_is_encoded_the_same_alone_and_in_a_batch(encoder: ClipVisionEncoder) -> None:
    images = [noise(60 + at, 50, at) for at in range(9)]
    for image, together in zip(images, encoder.encode(images), strict=True):
        torch.testing.assert_close(encoder.encode([image])[0].tokens, together.tokens, atol=1e-5, rtol=1e-5)
    assert encoder.encode([]) == []


def test_fitted_picture_gives_the_same_tokens(encoder: ClipVisionEncoder) -> None:
    images = [noise(90, 90), noise(200, 80)]
    for whole, fitted in zip(
        encoder.encode(images), encoder.encode([encoder.fit(each) for each in images]), strict=True
    ):
        torch.testing.assert_close(fitted.tokens, whole.tokens, atol=0, rtol=0)


def test_each_frame_of_a_video_is_one_grid(encoder: ClipVisionEncoder) -> None:
    frames = [noise(64, 48, seed) for seed in range(3)]
    video = encoder.encode_video(frames)
    assert video.grid == (3, 4, 4)
    torch.testing.assert_close(video.tokens, torch.cat([each.tokens for each in encoder.encode(frames)]))


def test_only_the_projector_is_trainable(encoder: ClipVisionEncoder) -> None:
    encoder.project(encoder.features([noise(56, 56)])).sum().backward()
    assert all(parameter.grad is None for parameter in encoder.vision_tower.parameters())
    assert all(parameter.grad is not None for parameter in encoder.mm_projector.parameters())


def test_a_tower_built_on_meta_works_once_it_has_its_weights(encoder: ClipVisionEncoder) -> None:
    with torch.device("meta"):
        loaded = TINY.build()
    loaded.load_state_dict(encoder.state_dict(), assign=True)
    images = [noise(70, 70)]
    torch.testing.assert_close(loaded.encode(images)[0].tokens, encoder.encode(images)[0].tokens)


def test_patches_must_divide_the_picture() -> None:
    with pytest.raises(ValueError, match="not a multiple"):
        ClipVisionEncoder.Config(model="x", token_width=8, image_size=50).build()
