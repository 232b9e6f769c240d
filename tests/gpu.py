"""A GPU for tests: a real one if available, otherwise one simulated on the CPU.

The simulated one enforces the rule that single-device code breaks first: all tensors of an operation must be on one
device. It does not simulate speed, memory or rounding.
"""

import functools
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.backend_registration import _DummyBackendModule, _setup_privateuseone_for_python_backend

__all__ = ["gpu"]

_SIMULATED = "simulated"
_aten: Any = torch.ops.aten
# Operations that copy between devices.
_CROSSING = {_aten._to_copy, _aten.to}
# Operations that also accept values or indices on another device.
_INTO_THE_FIRST = {_aten.copy_, _aten.index, _aten.index_put, _aten.index_put_}


class _OnGpu(Tensor):
    """A tensor that claims to be on the GPU, with its data on the CPU."""

    numbers: Tensor

    @staticmethod
    def __new__(cls, numbers: Tensor) -> "_OnGpu":
        made: _OnGpu = torch.Tensor._make_wrapper_subclass(
            cls,
            numbers.shape,
            strides=numbers.stride(),
            storage_offset=numbers.storage_offset(),
            dtype=numbers.dtype,
            device=torch.device(_SIMULATED, 0),
        )
        made.numbers = numbers
        return made

    def __repr__(self, **_: Any) -> str:  # type: ignore[override]
        return f"_OnGpu({self.numbers!r})"

    def tolist(self) -> Any:
        return self.numbers.tolist()

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        operation, leaves = func.overloadpacket, tree_leaves((args, kwargs or {}))
        known = {id(leaf.numbers): leaf for leaf in leaves if isinstance(leaf, _OnGpu)}
        target = next((leaf for leaf in leaves if isinstance(leaf, torch.device)), torch.device(_SIMULATED))
        if func is _aten.to.other:
            target = args[1].device
        elif operation in _INTO_THE_FIRST:
            target = args[0].device
        elif operation not in _CROSSING:
            for leaf in leaves:
                # A scalar may be on any device.
                if isinstance(leaf, Tensor) and not isinstance(leaf, _OnGpu) and leaf.dim():
                    where = f"a tensor of shape {tuple(leaf.shape)} lies on the CPU, another on the GPU"
                    raise RuntimeError(f"{operation}: {where}")

        def unwrapped(leaf: Any) -> Any:
            if isinstance(leaf, torch.device):
                return torch.device("cpu")
            return leaf.numbers if isinstance(leaf, _OnGpu) else leaf

        def wrapped(leaf: Any) -> Any:
            if not isinstance(leaf, Tensor):
                return leaf
            # In-place operations return the same tensor; a view requires gradients like its base.
            with torch.inference_mode(all(tensor.is_inference() for tensor in known.values())):
                made = known[id(leaf)] if id(leaf) in known else _OnGpu(leaf)
            assert made.shape == leaf.shape, f"{operation} changed the shape of a tensor in place"
            return made

        args, kwargs = tree_map(unwrapped, (args, kwargs or {}))
        result = func(*args, **kwargs)
        return tree_map(wrapped, result) if target.type == _SIMULATED else result


class _Module(_DummyBackendModule):
    def is_available(self) -> bool:
        return False

    def device_count(self) -> int:
        return 0


class _Hooks(torch._C._acc.PrivateUse1Hooks):
    """Reports that no accelerator for training is available."""

    def is_available(self) -> bool:
        return False

    def has_primary_context(self, index: int) -> bool:
        return False

    def is_built(self) -> bool:
        return False


@functools.cache
def _simulated() -> tuple[torch.device, torch.library.Library]:
    """Registers the device, once per process."""
    _setup_privateuseone_for_python_backend(_SIMULATED, backend_module=_Module(), hook=_Hooks())
    library = torch.library.Library("aten", "IMPL")

    def empty(size: Any, *, dtype: Any = None, **_: Any) -> Tensor:
        return _OnGpu(torch.empty(size, dtype=dtype))

    def empty_strided(size: Any, stride: Any, *, dtype: Any = None, **_: Any) -> Tensor:
        return _OnGpu(torch.empty_strided(size, stride, dtype=dtype))

    def copy_from(source: Tensor, target: Tensor, non_blocking: bool = False) -> Tensor:
        held, into = (each.numbers if isinstance(each, _OnGpu) else each for each in (source, target))
        into.copy_(held)
        return target

    def arange(*bounds: Any, dtype: Any = None, **_: Any) -> Tensor:
        return _OnGpu(torch.arange(*bounds, dtype=dtype))

    for overload in ("arange", "arange.start", "arange.start_step"):
        library.impl(overload, arange, "PrivateUse1")
    library.impl("_copy_from", copy_from, "PrivateUse1")
    library.impl("empty.memory_format", empty, "PrivateUse1")
    library.impl("empty_strided", empty_strided, "PrivateUse1")
    return torch.device(_SIMULATED, 0), library


@pytest.fixture
def gpu() -> Iterator[torch.device]:
    """The device to build on."""
    if torch.cuda.is_available():
        yield torch.device("cuda", 0)
        return
    # Moving a module replaces its parameters, since the data of existing ones cannot be swapped.
    before = torch.__future__.get_overwrite_module_params_on_conversion()
    torch.__future__.set_overwrite_module_params_on_conversion(True)
    yield _simulated()[0]
    torch.__future__.set_overwrite_module_params_on_conversion(before)
