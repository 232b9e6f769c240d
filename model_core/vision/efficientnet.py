"""EfficientNet-Lite: images to grids of features (Tan & Le 2019; the "lite" variant of 2020).

"Lite" means ReLU6 everywhere, no squeeze-and-excitation, and stem and head of fixed width. The weights were trained in
TensorFlow, whose "same" padding puts the odd pixel of a strided convolution at the bottom and right.

Shapes: B batch, C channels, H height, W width.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

NORM_EPSILON = 1e-3


@dataclass(kw_only=True, frozen=True, slots=True)
class Stage:
    """Blocks of one width; only the first has a stride."""

    blocks: int
    width: int
    kernel: int = 3
    stride: int = 1
    expansion: int = 6


LITE0 = (
    Stage(blocks=1, width=16, expansion=1),
    Stage(blocks=2, width=24, stride=2),
    Stage(blocks=2, width=40, kernel=5, stride=2),
    Stage(blocks=3, width=80, stride=2),
    Stage(blocks=3, width=112, kernel=5),
    Stage(blocks=4, width=192, kernel=5, stride=2),
    Stage(blocks=1, width=320),
)


class EfficientNetLite(nn.Module):
    """The feature extractor without the ImageNet classifier. Its total stride is 32 for `LITE0`."""

    @dataclass(kw_only=True, frozen=True, slots=True)
    class Config:
        stages: tuple[Stage, ...] = LITE0
        stem_width: int = 32
        feature_width: int = 1280

        def build(self) -> "EfficientNetLite":
            return EfficientNetLite(self)

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.feature_width = config.feature_width
        self.stem = ConvNorm(3, config.stem_width, kernel=3, stride=2)
        self.blocks = nn.Sequential(*_blocks(config))
        self.head = ConvNorm(config.stages[-1].width, config.feature_width)

    def forward(self, pixels_BCHW: Tensor) -> Tensor:
        """[B, 3, H, W] floats, (byte - 127) / 128 -> [B, feature width, ceil(H / stride), ceil(W / stride)]."""
        features: Tensor = F.relu6(self.head(self.blocks(F.relu6(self.stem(pixels_BCHW)))))
        return features


class InvertedResidual(nn.Module):
    """Expansion, depthwise convolution, projection; with a residual connection where the shapes agree."""

    def __init__(self, width_in: int, width_out: int, *, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        inner = width_in * expansion
        self.expand = ConvNorm(width_in, inner) if expansion > 1 else None
        self.depthwise = ConvNorm(inner, inner, kernel=kernel, stride=stride, groups=inner)
        self.project = ConvNorm(inner, width_out)
        self.residual = stride == 1 and width_in == width_out

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """[B, C in, H, W] -> [B, C out, H / stride, W / stride]."""
        inner = x_BCHW if self.expand is None else F.relu6(self.expand(x_BCHW))
        out: Tensor = self.project(F.relu6(self.depthwise(inner)))
        return out + x_BCHW if self.residual else out


class ConvNorm(nn.Module):
    """A convolution with TensorFlow's "same" padding, then batch normalisation."""

    def __init__(self, width_in: int, width_out: int, *, kernel: int = 1, stride: int = 1, groups: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width_in, width_out, kernel, stride=stride, groups=groups, bias=False)
        self.norm = nn.BatchNorm2d(width_out, eps=NORM_EPSILON)
        self.kernel = kernel
        self.stride = stride

    def forward(self, x_BCHW: Tensor) -> Tensor:
        if self.kernel > 1:
            top, bottom = self._padding(x_BCHW.shape[2])
            left, right = self._padding(x_BCHW.shape[3])
            x_BCHW = F.pad(x_BCHW, (left, right, top, bottom))
        out: Tensor = self.norm(self.conv(x_BCHW))
        return out

    def _padding(self, size: int) -> tuple[int, int]:
        outputs = -(-size // self.stride)
        total = max((outputs - 1) * self.stride + self.kernel - size, 0)
        return total // 2, total - total // 2


def _blocks(config: EfficientNetLite.Config) -> Iterator[InvertedResidual]:
    width = config.stem_width
    for stage in config.stages:
        for index in range(stage.blocks):
            yield InvertedResidual(
                width,
                stage.width,
                kernel=stage.kernel,
                stride=stage.stride if index == 0 else 1,
                expansion=stage.expansion,
            )
            width = stage.width
