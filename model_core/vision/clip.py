"""CLIP's vision transformer with an MLP projector, as in LLaVA; for LLaMA 3.

The tower and the image processor come from `transformers`. Tokens are the projected patch features of the tower's
second-to-last layer. Tensors are named `vision_tower.…` and `mm_projector.0|2.weight|bias`, as in LLaVA's checkpoints.

Shapes: B images, P patches (grid * grid), D tower width, N vision tokens (P), E language-model width.
"""

from dataclasses import dataclass

import torch
from einops import rearrange
from PIL import Image
from torch import Tensor, nn

from model_core.vision.encoder import VisionTokens

FEATURE_LAYER = -2
BATCH = 8


class ClipVisionEncoder(nn.Module):
    """A frozen CLIP tower and a trained projector."""

    @dataclass(kw_only=True, frozen=True, slots=True)
    class Config:
        """Shapes; defaults are those of CLIP ViT-L/14 at 336 pixels."""

        model: str
        token_width: int
        image_size: int = 336
        patch: int = 14
        width: int = 1024
        layers: int = 24
        heads: int = 16
        feed_forward: int = 4096

        def build(self) -> "ClipVisionEncoder":
            return ClipVisionEncoder(self)

    def __init__(self, config: Config) -> None:
        # Imported here: presets name this config in processes without vision.
        from transformers import CLIPImageProcessorPil, CLIPVisionConfig, CLIPVisionModel

        super().__init__()
        if config.image_size % config.patch:
            raise ValueError(f"image size {config.image_size} is not a multiple of patch size {config.patch}")
        self.model = config.model
        self.token_width = config.token_width
        self.image_size = config.image_size
        self.grid = config.image_size // config.patch
        self.vision_tower = CLIPVisionModel(
            CLIPVisionConfig(
                hidden_size=config.width,
                intermediate_size=config.feed_forward,
                num_hidden_layers=config.layers,
                num_attention_heads=config.heads,
                image_size=config.image_size,
                patch_size=config.patch,
            )
        )
        self.vision_tower.requires_grad_(False)
        self.mm_projector = nn.Sequential(
            nn.Linear(config.width, config.token_width), nn.GELU(), nn.Linear(config.token_width, config.token_width)
        )
        side = {"height": config.image_size, "width": config.image_size}
        self._processor = CLIPImageProcessorPil(size={"shortest_edge": config.image_size}, crop_size=side)
        red, green, blue = (int(value * 255) for value in self._processor.image_mean)
        self._background = (red, green, blue)
        self.eval()

    @property
    def one_by_one(self) -> bool:
        """On a CPU, so that the tokens of an image do not depend on its batch."""
        return self.vision_tower.embeddings.patch_embedding.weight.device.type == "cpu"

    def fit(self, image: Image.Image) -> Image.Image:
        """The image padded to a square, at the model's size."""
        return self._square(image).resize((self.image_size, self.image_size), Image.Resampling.BICUBIC)

    @torch.no_grad()
    def features(self, images: list[Image.Image]) -> Tensor:
        """RGB images of any size -> patch features [B, P, D]. Images are padded to squares, not cropped."""
        return torch.cat([self._features(images[at : at + BATCH]) for at in range(0, len(images), BATCH)])

    def project(self, features_BPD: Tensor) -> Tensor:
        """Features [B, P, D] -> vision tokens [B, N, E]; differentiable with respect to the projector."""
        tokens: Tensor = self.mm_projector(features_BPD)
        return tokens

    @torch.no_grad()
    def encode(self, images: list[Image.Image]) -> list[VisionTokens]:
        """RGB images -> their vision tokens, in the same order."""
        if not images:
            return []
        tokens_BNE = self.project(self.features(images)).float()
        return [VisionTokens(tokens_NE, (1, self.grid, self.grid)) for tokens_NE in tokens_BNE]

    @torch.no_grad()
    def encode_video(self, frames: list[Image.Image]) -> VisionTokens:
        """RGB frames in order -> one grid of tokens per frame, (frames, grid, grid)."""
        tokens_FNE = self.project(self.features(frames)).float()
        return VisionTokens(rearrange(tokens_FNE, "f n e -> (f n) e"), (len(frames), self.grid, self.grid))

    def _features(self, images: list[Image.Image]) -> Tensor:
        embeddings = self.vision_tower.embeddings
        weight = embeddings.patch_embedding.weight
        # Positions are not weights: a tower built on the meta device has none.
        positions = torch.arange(embeddings.num_positions, device=weight.device)[None]
        embeddings.position_ids = nn.Buffer(positions, persistent=False)
        pixels = self._processor([self._square(image) for image in images], return_tensors="pt")["pixel_values"]
        output = self.vision_tower(pixels.to(weight.device, weight.dtype), output_hidden_states=True)
        features_BPD: Tensor = output.hidden_states[FEATURE_LAYER][:, 1:]
        return features_BPD

    def _square(self, image: Image.Image) -> Image.Image:
        """The image in the centre of a square of the processor's mean colour."""
        side = max(image.size)
        square = Image.new("RGB", (side, side), self._background)
        square.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
        return square
