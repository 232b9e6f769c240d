"""What the builders of presets share: random modules that are always the same, and modules that take stored weights."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from model_core.errors import InvalidInput, WeightsMissing


@contextmanager
def seeded() -> Iterator[None]:
    """Random weights made inside are the same every time."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


def on_meta() -> torch.device:
    """Modules made inside take no memory until `load` gives them weights."""
    return torch.device("meta")


def chosen_device(device: torch.device | str) -> torch.device:
    """`auto` is the first GPU, or the CPU where there is none. Raises InvalidInput where a GPU is named and missing."""
    if device == "auto":
        return torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")
    chosen = torch.device(device)
    if chosen.type == "cuda" and (chosen.index or 0) >= torch.cuda.device_count():
        seen = f"this process sees {torch.cuda.device_count()} GPUs"
        if torch.version.cuda is None:
            seen = "this torch is built for CPUs alone"
        raise InvalidInput("device", f"{device} is wanted, and {seen}: name another device, or auto")
    return chosen


def load(
    module: nn.Module,
    tensors: Mapping[str, Tensor],
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> None:
    """Gives a module its weights, all of them and no other, in `dtype` on `device`; counters stay integers."""
    cast = {
        name: tensor.to(device, dtype if tensor.is_floating_point() else tensor.dtype)
        for name, tensor in tensors.items()
    }
    module.load_state_dict(cast, assign=True)


def read(folder: Path) -> dict[str, Tensor]:
    """Tensors of a converted part."""
    return load_file(folder / "model.safetensors")


def trained(path: Path) -> dict[str, Tensor]:
    """Tensors of a part trained here. Raises WeightsMissing."""
    if not path.is_file():
        raise WeightsMissing(f"the trained part {path.name} of {path.parent.name} is missing: run `lyra train nano`")
    return load_file(path)


def below(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Those tensors whose names start with `prefix`, without it."""
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
