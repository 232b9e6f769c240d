"""The small vision encoder: an image's feature grid (EfficientNet), pooled and projected to the language model's width.

Shapes: B images, C feature width, H and W cells of the feature grid, N vision tokens (grid * grid), E language-model
width.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from PIL import Image
from torch import Tensor, nn

from model_core.vision.efficientnet import EfficientNetLite
from model_core.vision.encoder import VisionTokens

GPU_BATCH = 64


class VisionProjector(nn.Module):
    """Pools the feature grid to `grid` x `grid` cells and maps each to one vision token."""

    @dataclass(kw_only=True, frozen=True, slots=True)
    class Config:
        feature_width: int = 1280
        model_width: int = 576
        hidden_width: int = 1024
        grid: int = 4

        def build(self) -> "VisionProjector":
            return VisionProjector(self)

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.grid = config.grid
        self.model_width = config.model_width
        self.expand = nn.Linear(config.feature_width, config.hidden_width)
        self.reduce = nn.Linear(config.hidden_width, config.model_width)

    def forward(self, features_BCHW: Tensor) -> Tensor:
        """[B, C, H, W] floats -> [B, N, E]; tokens are ordered row by row from the top left."""
        cells = rearrange(F.adaptive_avg_pool2d(features_BCHW, self.grid), "b c h w -> b (h w) c")
        tokens: Tensor = self.reduce(F.gelu(self.expand(cells)))
        return tokens


class GridVisionEncoder(nn.Module):
    """A frozen backbone and a trained projector.

    Training caches `features`, which never change, and calls `project`; everything else calls `encode`.
    """

    @dataclass(kw_only=True, frozen=True, slots=True)
    class Config:
        model: str
        image_size: int = 224
        backbone: EfficientNetLite.Config = field(default_factory=EfficientNetLite.Config)
        projector: VisionProjector.Config = field(default_factory=VisionProjector.Config)

        def build(self) -> "GridVisionEncoder":
            return GridVisionEncoder(self)

    def __init__(self, config: Config) -> None:
        super().__init__()
        if config.backbone.feature_width != config.projector.feature_width:
            raise ValueError("backbone and projector have different feature widths")
        self.model = config.model
        self.image_size = config.image_size
        self.token_width = config.projector.model_width
        self.backbone = config.backbone.build()
        self.projector = config.projector.build()
        self.side = config.projector.grid
        self.eval()

    def load(self, backbone: Mapping[str, Tensor], projector: Mapping[str, Tensor]) -> None:
        """Loads weights under this module's names (see `checkpoints.efficientnet`); all must be there."""
        self.backbone.load_state_dict(backbone)
        self.projector.load_state_dict(projector)

    @property
    def one_by_one(self) -> bool:
        """On a CPU: the activations of one image fit its cache, which is faster than a batch."""
        return self._device.type == "cpu"

    def fit(self, image: Image.Image) -> Image.Image:
        """The image as a square of the model's size."""
        return image.resize((self.image_size, self.image_size), Image.Resampling.BICUBIC)

    @torch.no_grad()
    def features(self, images: list[Image.Image]) -> Tensor:
        """RGB images of any size -> features [B, C, H, W] float32; 1280 x 7 x 7 for nano.

        Images are resized to squares, not cropped, so that nothing a question may be about is lost.
        """
        self.backbone.eval()
        size = 1 if self.one_by_one else GPU_BATCH
        batches = [self.backbone(self._pixels(images[at : at + size])) for at in range(0, len(images), size)]
        return torch.cat(batches)

    def project(self, features_BCHW: Tensor) -> Tensor:
        """Features [B, C, H, W] -> vision tokens [B, N, E]; differentiable with respect to the projector."""
        tokens: Tensor = self.projector(features_BCHW)
        return tokens

    @torch.no_grad()
    def encode(self, images: list[Image.Image]) -> list[VisionTokens]:
        """RGB images -> their vision tokens, in the same order."""
        if not images:
            return []
        side = self.side
        return [VisionTokens(tokens, (1, side, side)) for tokens in self.project(self.features(images))]

    @torch.no_grad()
    def encode_video(self, frames: list[Image.Image]) -> VisionTokens:
        """RGB frames in order -> one grid of tokens per frame, (frames, grid, grid)."""
        side = self.side
        tokens_FNE = self.project(self.features(frames))
        return VisionTokens(rearrange(tokens_FNE, "f n e -> (f n) e"), (len(frames), side, side))

    def _pixels(self, images: list[Image.Image]) -> Tensor:
        squares = [np.asarray(self.fit(image), dtype=np.float32) for image in images]
        pixels_BHWC = torch.from_numpy(np.stack(squares))
        pixels = rearrange((pixels_BHWC - 127) / 128, "b h w c -> b c h w").contiguous()
        return pixels.to(self._device)

    @property
    def _device(self) -> torch.device:
        return next(self.backbone.parameters()).device
