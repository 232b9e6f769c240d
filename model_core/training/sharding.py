"""Parameters that FSDP shares out to processes, seen as whole tensors."""

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor, distribute_tensor


def whole(tensor: Tensor) -> Tensor:
    """All of a tensor, without gradient. Every process must call it for a tensor that is shared out."""
    tensor = tensor.detach()
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


@torch.no_grad()
def fill(parameter: Tensor, values: Tensor) -> None:
    """Gives a parameter its values, each process its share. Every process must call it."""
    if isinstance(parameter, DTensor):
        values = distribute_tensor(values.to(parameter), parameter.device_mesh, parameter.placements)
    parameter.copy_(values)


def unshare(module: nn.Module) -> None:
    """Makes all parameters that learn whole, for good. Every process must call it, and nothing is computed after it."""
    for part in module.modules():
        if isinstance(part, FSDPModule):
            part.reshard()
    for name, parameter in list(module.named_parameters()):
        if parameter.requires_grad and isinstance(parameter, DTensor):
            owner, _, own_name = name.rpartition(".")
            setattr(module.get_submodule(owner), own_name, nn.Parameter(whole(parameter)))
