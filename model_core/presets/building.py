"""What the builders of presets share: reproducible random modules and modules with stored weights."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors.torch import load_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor, nn

from model_core.errors import InvalidInput, WeightsMissing


@contextmanager
def seeded() -> Iterator[None]:
    """Random weights drawn inside are the same every time."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


def on_meta() -> torch.device:
    """As a context manager: modules built inside take no memory until `load` gives them weights."""
    return torch.device("meta")


def chosen_device(device: torch.device | str) -> torch.device:
    """The device of that name; `auto` is the first GPU, else the CPU. Raises InvalidInput for a GPU that is missing."""
    if device == "auto":
        return torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")
    chosen = torch.device(device)
    if chosen.type == "cuda" and (chosen.index or 0) >= torch.cuda.device_count():
        reason = f"this process sees {torch.cuda.device_count()} GPUs"
        if torch.version.cuda is None:
            reason = "this build of torch supports CPUs only"
        raise InvalidInput("device", f"{device} is not available, {reason}: name another device, or auto")
    return chosen


def load(
    module: nn.Module,
    tensors: Mapping[str, Tensor],
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> None:
    """Loads exactly the weights that a module has, in `dtype` on `device`; integers keep their dtype."""
    cast = {
        name: tensor.to(device, dtype if tensor.is_floating_point() else tensor.dtype)
        for name, tensor in tensors.items()
    }
    module.load_state_dict(cast, assign=True)


def read(folder: Path) -> dict[str, Tensor]:
    """Tensors of a pulled part."""
    return load_file(folder / "model.safetensors")


def trained(path: Path) -> dict[str, Tensor]:
    """Tensors of a part that was trained here. Raises WeightsMissing."""
    if not path.is_file():
        raise WeightsMissing(f"the trained part {path.name} of {path.parent.name} is missing: run `lyra train nano`")
    return load_file(path)


def below(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors whose names start with `prefix`, by their names without it."""
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def byte_tokenizer(*special: str) -> Tokenizer:
    """A tokenizer of single bytes, which come after the special tokens."""
    vocabulary = {token: index for index, token in enumerate([*special, *sorted(pre_tokenizers.ByteLevel.alphabet())])}
    tokenizer = Tokenizer(models.BPE(vocabulary, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in special])
    return tokenizer
