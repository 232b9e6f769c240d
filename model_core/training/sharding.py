"""Full tensors of parameters that FSDP shards."""

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor, distribute_tensor


def full_tensor(tensor: Tensor) -> Tensor:
    """The full tensor, without gradient. For a sharded tensor every process must call it."""
    tensor = tensor.detach()
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


@torch.no_grad()
def assign(parameter: Tensor, values: Tensor) -> None:
    """Assigns values to a parameter, each process its shard. Every process must call it."""
    if isinstance(parameter, DTensor):
        values = distribute_tensor(values.to(parameter), parameter.device_mesh, parameter.placements)
    parameter.copy_(values)


def gather_parameters(module: nn.Module) -> None:
    """Replaces all trainable parameters by full tensors. Every process must call it; no training step may follow."""
    for part in module.modules():
        if isinstance(part, FSDPModule):
            part.reshard()
    for name, parameter in list(module.named_parameters()):
        if parameter.requires_grad and isinstance(parameter, DTensor):
            owner, _, own_name = name.rpartition(".")
            setattr(module.get_submodule(owner), own_name, nn.Parameter(full_tensor(parameter)))
