"""Qwen2-VL's vision transformer: images at their native resolution, videos as pairs of frames.

The tower and the image processor come from `transformers`. Its merger joins 2 x 2 patches and outputs the language
model's width, so there is no projector. Tensors are named `vision_tower.…`, as in published Lyra checkpoints.

Shapes: F frames, P patches of a frame or image, K values of a patch (channels * frames a patch * patch * patch),
N vision tokens (P / merge**2 for every `frames_per_patch` frames), E language-model width.
"""

from dataclasses import dataclass

import torch
from einops import rearrange
from PIL import Image
from torch import Tensor, nn

from model_core.vision.encoder import VisionTokens

# Limits of the published checkpoints, applied before Qwen2-VL's own processor. They keep the aspect ratio under 103;
# the processor accepts up to 200.
MAX_SIDE = 2880
MIN_SIDE = 28


class QwenVisionEncoder(nn.Module):
    """The vision tower of Qwen2-VL, frozen."""

    @dataclass(kw_only=True, frozen=True, slots=True)
    class Config:
        """Shape of the tower, and pixel budgets; defaults are those of every Qwen2-VL.

        Attributes:
            token_width: Width of the language model.
            min_pixels, max_pixels: Bounds of an image or frame after resizing.
            max_clip_pixels: Maximum pixels of all frames of a video together.
        """

        model: str
        token_width: int
        width: int = 1280
        layers: int = 32
        heads: int = 16
        feed_forward_ratio: int = 4
        patch: int = 14
        merge: int = 2
        frames_per_patch: int = 2
        min_pixels: int = 28 * 28 * 4
        max_pixels: int = 28 * 28 * 16_384
        max_clip_pixels: int = 28 * 28 * 2048 * 32

        def build(self) -> "QwenVisionEncoder":
            return QwenVisionEncoder(self)

    def __init__(self, config: Config) -> None:
        # Imported here: presets name this config in processes without vision.
        from transformers import Qwen2VLImageProcessorPil
        from transformers.models.qwen2_vl.configuration_qwen2_vl import Qwen2VLVisionConfig
        from transformers.models.qwen2_vl.modeling_qwen2_vl import Qwen2VisionTransformerPretrainedModel

        super().__init__()
        self.config = config
        self.model = config.model
        self.token_width = config.token_width
        self.vision_tower = Qwen2VisionTransformerPretrainedModel(
            Qwen2VLVisionConfig(
                depth=config.layers,
                embed_dim=config.width,
                hidden_size=config.token_width,
                mlp_ratio=config.feed_forward_ratio,
                num_heads=config.heads,
                patch_size=config.patch,
                spatial_merge_size=config.merge,
                temporal_patch_size=config.frames_per_patch,
            )
        )
        self._processor = Qwen2VLImageProcessorPil(
            patch_size=config.patch, merge_size=config.merge, temporal_patch_size=config.frames_per_patch
        )
        self.requires_grad_(False)
        self.eval()

    @property
    def one_by_one(self) -> bool:
        """Always: images make different numbers of patches."""
        return True

    def fit(self, image: Image.Image) -> Image.Image:
        """The image with sides within the published bounds."""
        return fitted(image)

    @torch.no_grad()
    def encode(self, images: list[Image.Image]) -> list[VisionTokens]:
        """RGB pictures of any size -> their vision tokens, in the same order; larger pictures make more of them."""
        return [self._tokens(*self._patches(image, self.config.max_pixels)) for image in images]

    @torch.no_grad()
    def encode_video(self, frames: list[Image.Image]) -> VisionTokens:
        """RGB frames of one video, all of one size -> its tokens; grid (frames / frames_per_patch, height, width).

        Where the last patch in time is not full, the last frame is repeated.
        """
        together = self.config.frames_per_patch
        most = max(self.config.min_pixels, min(self.config.max_pixels, self.config.max_clip_pixels // len(frames)))
        single = []
        grid = (1, 0, 0)
        for frame in frames:
            patches_PK, grid = self._patches(frame, most)
            # The processor repeats a picture in time; of a frame one copy is wanted.
            copies = rearrange(patches_PK, "p (c t x) -> t p c x", c=3, t=together)
            single.append(copies[0].clone())
        single += [single[-1]] * (-len(single) % together)
        joined = rearrange(torch.stack(single), "(g t) p c x -> (g p) (c t x)", t=together)
        return self._tokens(joined, (len(single) // together, *grid[1:]))

    def _patches(self, image: Image.Image, max_pixels: int) -> tuple[Tensor, tuple[int, int, int]]:
        """[P, K] normalised pixels of an image and its grid of patches (1, height, width)."""
        size = {"shortest_edge": self.config.min_pixels, "longest_edge": max_pixels}
        features = self._processor(fitted(image), size=size, return_tensors="pt")
        _, height, width = features["image_grid_thw"][0].tolist()
        return features["pixel_values"], (1, height, width)

    def _tokens(self, patches_PK: Tensor, grid: tuple[int, int, int]) -> VisionTokens:
        weight = self.vision_tower.patch_embed.proj.weight
        # Frequencies are not weights: a tower built on the meta device has none, one cast to bfloat16 has coarse ones.
        rotary = self.vision_tower.rotary_pos_emb
        frequencies, _ = rotary.compute_axial_rope_parameters(self.vision_tower.config)
        rotary.inv_freq = nn.Buffer(frequencies.to(weight.device), persistent=False)
        output = self.vision_tower(
            patches_PK.to(weight.device, weight.dtype), grid_thw=torch.tensor([grid], device=weight.device)
        )
        time, height, width = grid
        merged = (time, height // self.config.merge, width // self.config.merge)
        return VisionTokens(output.pooler_output.float(), merged)


def fitted(image: Image.Image) -> Image.Image:
    """The image in RGB, its longer side at most 2880 and both at least 28, resized with nearest neighbours."""
    longest = max(image.size)
    if longest > MAX_SIDE:
        width, height = (side * MAX_SIDE // longest for side in image.size)
        image = image.resize((max(width, 1), max(height, 1)), Image.Resampling.NEAREST)
    if min(image.size) < MIN_SIDE:
        width, height = (max(side, MIN_SIDE) for side in image.size)
        image = image.resize((width, height), Image.Resampling.NEAREST)
    return image.convert("RGB")
