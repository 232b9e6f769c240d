"""The HiFi-GAN inside a Piper voice (VITS, ONNX), as tensors with the names of our vocoder."""

import re
from pathlib import Path

import onnx
import torch
from onnx import numpy_helper
from torch import Tensor

from model_core.errors import CheckpointError

_DECODER = "dec."


def read_hifigan(model: Path) -> dict[str, Tensor]:
    """float32 tensors of a voice's decoder, from its 192 latents to sound. Raises CheckpointError."""
    graph = onnx.load(model).graph
    tensors = {
        _renamed(each.name.removeprefix(_DECODER)): torch.from_numpy(numpy_helper.to_array(each).copy()).float()
        for each in graph.initializer
        if each.name.startswith(_DECODER)
    }
    if "conv_pre.weight" not in tensors:
        raise CheckpointError(f"{_DECODER}conv_pre.weight", f"is missing: {model.name} is not a Piper voice")
    # The voice's last convolution has no bias; ours has one.
    return {"conv_post.bias": torch.zeros(1)} | tensors


def _renamed(name: str) -> str:
    """HiFi-GAN's second kind of block has one list of convolutions, which is the first of our two."""
    return re.sub(r"^(resblocks\.\d+)\.convs\.", r"\1.convs1.", name)
