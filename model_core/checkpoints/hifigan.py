"""Weights of code-HiFi-GAN checkpoints: weight norm, and whether every tensor fits.

Weight norm writes a weight as a magnitude `weight_g` and a direction `weight_v`; running the model needs the product.
"""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from model_core.errors import CheckpointError

_NORMED = ("conv_pre", "ups", "resblocks", "conv_post")


def without_weight_norm(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """float32 tensors, magnitudes and directions joined. Raises CheckpointError where one lacks the other."""
    tensors = {name: tensor.float() for name, tensor in state.items()}
    for name in [name for name in tensors if name.endswith(".weight_v")]:
        direction, magnitude = tensors.pop(name), tensors.pop(f"{name[:-1]}g", None)
        if magnitude is None or magnitude.numel() != direction.shape[0]:
            raise CheckpointError(f"{name[:-1]}g", f"is missing or does not fit {name}")
        norms = _norms(direction)
        tensors[name[:-2]] = direction * magnitude.view(norms.shape) / norms
    return tensors


def with_weight_norm(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Copies of tensors, the convolutions' weights as magnitude and direction."""
    tensors: dict[str, Tensor] = {}
    for name, tensor in state.items():
        if name.startswith(_NORMED) and name.endswith(".weight"):
            tensors[f"{name}_g"], tensors[f"{name}_v"] = _norms(tensor), tensor.clone()
        else:
            tensors[name] = tensor.clone()
    return tensors


def check_fit(tensors: Mapping[str, Tensor], build: Callable[[], nn.Module], convolutions: int) -> None:
    """Compares tensors with those of the vocoder that `build` makes, before any memory is taken for it.

    Args:
        tensors: What the checkpoint holds.
        build: Makes a vocoder of the shape that its configuration names.
        convolutions: How many of them its residual blocks have.

    Raises:
        CheckpointError: The first tensor that is missing, unknown, misshapen or not finite, or an impossible size.
    """
    if convolutions > len(tensors):
        too_many = f"makes {convolutions} convolutions, but the checkpoint has {len(tensors)} tensors"
        raise CheckpointError("resblock_dilation_sizes", too_many)
    try:
        with torch.device("meta"):
            expected = build().state_dict()
    except (RuntimeError, TypeError, ValueError, OverflowError) as error:
        raise CheckpointError("config.json", f"gives the vocoder an impossible size: {error}") from None
    for name in sorted(expected.keys() | tensors.keys()):
        if name not in tensors or name not in expected:
            raise CheckpointError(name, "is missing" if name in expected else "is not part of a unit vocoder")
        if tensors[name].shape != expected[name].shape:
            found, wanted = list(tensors[name].shape), list(expected[name].shape)
            raise CheckpointError(name, f"has shape {found}, not {wanted}")
        if not tensors[name].isfinite().all():
            raise CheckpointError(name, "holds values that are not finite")


def _norms(weight: Tensor) -> Tensor:
    """Euclidean norms over all but the first dimension, which stay as ones."""
    norms: Tensor = torch.linalg.vector_norm(weight, dim=tuple(range(1, weight.dim())), keepdim=True)
    return norms
