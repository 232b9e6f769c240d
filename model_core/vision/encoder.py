"""What every vision encoder does: pictures and videos to vision tokens.

Shapes: N vision tokens (time * height * width of the grid), E language-model width.
"""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from PIL import Image
from torch import Tensor, nn


@dataclass(frozen=True, slots=True)
class VisionTokens:
    """What the language model gets to see of one picture or video.

    Attributes:
        tokens: [time * height * width, E] float32, frame by frame, each row by row.
        grid: How many tokens in time, height and width.
    """

    tokens: Tensor
    grid: tuple[int, int, int]


class VisionEncoder(Protocol):
    """A vision model with what makes language-model tokens of its features."""

    model: str
    token_width: int

    def encode(self, images: list[Image.Image]) -> list[VisionTokens]:
        """RGB pictures of any size -> their vision tokens, in the same order."""
        ...

    def encode_video(self, frames: list[Image.Image]) -> VisionTokens:
        """RGB frames of one video (at least one, all of one size), in their order -> the tokens of the whole clip."""
        ...


@runtime_checkable
class ProjectedVisionEncoder(VisionEncoder, Protocol):
    """A frozen backbone with a projector that training may change: `features` are kept, `project` learns."""

    projector: nn.Module
    side: int  # a picture or frame becomes side x side vision tokens

    def features(self, images: list[Image.Image]) -> Tensor:
        """RGB pictures of any size -> the backbone's features, one row a picture."""
        ...

    def project(self, features: Tensor) -> Tensor:
        """Features -> [B, side * side, E] vision tokens; gradients flow into the projector."""
        ...
