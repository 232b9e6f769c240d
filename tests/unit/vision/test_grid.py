import pytest
import torch
from PIL import Image

from model_core.checkpoints.efficientnet import own_names
from model_core.errors import CheckpointError
from model_core.vision.efficientnet import LITE0, EfficientNetLite, Stage
from model_core.vision.grid import GridVisionEncoder, VisionProjector

TINY = GridVisionEncoder.Config(
    model="tiny",
    image_size=32,
    backbone=EfficientNetLite.Config(
        stages=(Stage(blocks=1, width=8, expansion=1), Stage(blocks=2, width=12, kernel=5, stride=2)),
        stem_width=8,
        feature_width=16,
    ),
    projector=VisionProjector.Config(feature_width=16, hidden_width=32, model_width=24, grid=2),
)


@pytest.fixture
def encoder() -> GridVisionEncoder:
    torch.manual_seed(0)
    return TINY.build()


def pictures(count: int) -> list[Image.Image]:
    return [Image.effect_noise((20 + 7 * index, 31), 60).convert("RGB") for index in range(count)]


def test_each_picture_gets_its_grid_of_tokens(encoder: GridVisionEncoder) -> None:
    for encoded in encoder.encode(pictures(3)):
        assert encoded.grid == (1, 2, 2)
        assert encoded.tokens.shape == (4, 24)
        assert encoded.tokens.dtype == torch.float32


def test_no_pictures_give_no_tokens(encoder: GridVisionEncoder) -> None:
    assert encoder.encode([]) == []


def test_a_picture_is_encoded_the_same_alone_and_in_a_batch(encoder: GridVisionEncoder) -> None:
    images = pictures(3)
    together = encoder.encode(images)
    for image, one in zip(images, together, strict=True):
        torch.testing.assert_close(encoder.encode([image])[0].tokens, one.tokens, atol=1e-5, rtol=1e-5)


def test_fitted_picture_gives_the_same_tokens(encoder: GridVisionEncoder) -> None:
    images = pictures(3)
    for whole, fitted in zip(
        encoder.encode(images), encoder.encode([encoder.fit(each) for each in images]), strict=True
    ):
        torch.testing.assert_close(fitted.tokens, whole.tokens, atol=0, rtol=0)


def test_each_frame_of_a_video_is_one_grid(encoder: GridVisionEncoder) -> None:
    frames = pictures(3)
    video = encoder.encode_video(frames)
    assert video.grid == (3, 2, 2)
    torch.testing.assert_close(video.tokens, torch.cat([each.tokens for each in encoder.encode(frames)]))


def test_encode_is_features_then_projector(encoder: GridVisionEncoder) -> None:
    images = pictures(2)
    features = encoder.features(images)
    assert features.shape == (2, 16, 8, 8)
    assert torch.equal(encoder.project(features)[1], encoder.encode(images)[1].tokens)


def test_only_the_projector_is_trainable(encoder: GridVisionEncoder) -> None:
    encoder.train()
    running = encoder.backbone.stem.norm.running_mean
    assert running is not None
    before = running.clone()
    encoder.project(encoder.features(pictures(2))).sum().backward()
    assert torch.equal(before, running)
    assert all(parameter.grad is None for parameter in encoder.backbone.parameters())
    assert all(parameter.grad is not None for parameter in encoder.projector.parameters())


def test_tokens_go_row_by_row_from_the_top_left(encoder: GridVisionEncoder) -> None:
    features = torch.zeros(1, 16, 8, 8)
    changed = features.clone()
    changed[:, :, :4, 4:] = 1  # top right
    differs = (encoder.project(features) - encoder.project(changed)).abs().sum(-1)[0] > 0
    assert differs.tolist() == [False, True, False, False]


def test_disagreeing_widths_are_refused() -> None:
    with pytest.raises(ValueError, match="feature width"):
        GridVisionEncoder.Config(model="x", projector=VisionProjector.Config(feature_width=7)).build()


def test_strided_padding_adds_the_odd_pixel_at_the_end() -> None:
    stem = EfficientNetLite.Config(stages=(Stage(blocks=1, width=4),), stem_width=4, feature_width=4).build().stem
    assert stem._padding(224) == (0, 1)
    assert stem._padding(7) == (1, 1)


def test_lite0_has_a_stride_of_thirty_two_and_the_packaged_names() -> None:
    model = EfficientNetLite.Config().build().eval()
    with torch.no_grad():
        assert model(torch.zeros(1, 3, 64, 64)).shape == (1, 1280, 2, 2)
    packaged = dict.fromkeys(_packaged_names(), torch.zeros(1))
    assert own_names(packaged).keys() == model.state_dict().keys()


def test_foreign_tensor_names_are_refused() -> None:
    with pytest.raises(CheckpointError, match="layer4"):
        own_names({"layer4.weight": torch.zeros(1)})


def _packaged_names() -> list[str]:
    leaves = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    names = ["_conv_stem.weight", "_conv_head.weight", "_fc.weight", "_fc.bias"]
    names += [f"{norm}.{leaf}" for norm in ("_bn0", "_bn1") for leaf in leaves]
    expansions = [stage.expansion for stage in LITE0 for _ in range(stage.blocks)]
    for block, expansion in enumerate(expansions):
        layers = [("_depthwise_conv", "_bn1"), ("_project_conv", "_bn2")]
        if expansion > 1:
            layers.append(("_expand_conv", "_bn0"))
        for conv, norm in layers:
            names.append(f"_blocks.{block}.{conv}.weight")
            names += [f"_blocks.{block}.{norm}.{leaf}" for leaf in leaves]
    return names
