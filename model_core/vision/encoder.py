"""The interface of vision encoders: images and videos to vision tokens.

Shapes: N vision tokens (time * height * width of the grid), E language-model width.
"""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from PIL import Image
from torch import Tensor, nn


@dataclass(frozen=True, slots=True)
class VisionTokens:
    """Vision tokens of one image or video.

    Attributes:
        tokens: [time * height * width, E] float32, frame by frame, each row by row.
        grid: Number of tokens in time, height and width.
    """

    tokens: Tensor
    grid: tuple[int, int, int]


class VisionEncoder(Protocol):
    """A vision model whose output has the width of the language model."""

    model: str
    token_width: int

    @property
    def one_by_one(self) -> bool:
        """Whether images are encoded one at a time even where they share a call."""
        ...

    def fit(self, image: Image.Image) -> Image.Image:
        """An RGB image at no more than the size that `encode` reduces it to, which gives the same tokens."""
        ...

    def encode(self, images: list[Image.Image]) -> list[VisionTokens]:
        """RGB images of any size -> their vision tokens, in the same order."""
        ...

    def encode_video(self, frames: list[Image.Image]) -> VisionTokens:
        """RGB frames of one video (at least one, all of one size), in order -> the tokens of the video."""
        ...


@runtime_checkable
class ProjectedVisionEncoder(VisionEncoder, Protocol):
    """A frozen backbone with a trainable projector: `features` can be cached, `project` is trained."""

    projector: nn.Module
    side: int  # an image or frame becomes side x side vision tokens

    def features(self, images: list[Image.Image]) -> Tensor:
        """RGB images of any size -> the backbone's features, one row per image."""
        ...

    def project(self, features: Tensor) -> Tensor:
        """Features -> vision tokens [B, side * side, E]; differentiable with respect to the projector."""
        ...
