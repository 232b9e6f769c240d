"""Tensors in third-party files, safetensors or pickled: first an index from headers, then one tensor at a time.

Only tensors are ever unpickled. Each tensor owns its memory and no file stays mapped, so reading a checkpoint takes the
memory of its weights plus one tensor.
"""

import json
import math
import pickle
import zipfile
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import EllipsisType
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from model_core.errors import CheckpointError

# The index of a sharded model, or a whole model in one file; the first that exists is read.
_INDEX_FILES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
_WHOLE_FILES = ("model.safetensors", "pytorch_model.bin")
_DTYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16,
    "I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8, "BOOL": torch.bool,
}  # fmt: skip
_FLOATS = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
_PIECE_BYTES = 1 << 21

# Reads rows of a tensor, or all of it, by its name in a file.
_ReadRows = Callable[[str, "slice | EllipsisType"], Tensor]


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """A tensor that has not been read yet; `name` is its name in the file."""

    file: Path
    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def parameters(self) -> int:
        return math.prod(self.shape)

    @property
    def size_bytes(self) -> int:
        return self.parameters * self.dtype.itemsize


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file. Raises CheckpointError, which names the file."""
    try:
        read = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as missing:
        raise CheckpointError(path.name, f"is missing from {path.parent}") from missing
    except (OSError, ValueError) as broken:
        raise CheckpointError(path.name, f"cannot be read as JSON: {broken}") from broken
    if not isinstance(read, dict):
        raise CheckpointError(path.name, "is not a JSON object")
    return read


def index_folder(folder: Path) -> dict[str, StoredTensor]:
    """Every tensor in a model's folder by its name there, from headers: sharded or whole, safetensors or `.bin`.

    Raises:
        CheckpointError: There are no weights; a shard is missing, truncated or outside the folder; a tensor is listed
            but missing, present but not listed, or present twice.
    """
    for name in _INDEX_FILES:
        if (folder / name).is_file():
            return _index_shards(folder, name)
    for name in _WHOLE_FILES:
        if (folder / name).is_file():
            return index_file(folder / name)
    raise CheckpointError(_WHOLE_FILES[0], f"{folder} holds no weights: neither this file nor {_INDEX_FILES[0]}")


def index_file(path: Path) -> dict[str, StoredTensor]:
    """Every tensor of one file, from its header. Raises CheckpointError."""
    if path.suffix == ".safetensors":
        with _open_safetensors(path) as file:
            slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 - not a dict
            return {
                name: StoredTensor(path, name, tuple(each.get_shape()), _dtype(name, each.get_dtype()))
                for name, each in slices.items()
            }
    return {
        name: StoredTensor(path, name, tuple(tensor.shape), tensor.dtype)
        for name, tensor in unpickle(path, "meta").items()
    }


def stream(wanted: Mapping[str, StoredTensor], dtype: torch.dtype | None = None) -> Iterator[tuple[str, Tensor]]:
    """Reads tensors one by one, file by file.

    Args:
        wanted: Stored tensors by the names that they are returned with.
        dtype: Dtype that they are cast to; None keeps the stored one.

    Raises:
        CheckpointError: A tensor holds no floats, or NaN or infinite values (in `dtype`), or its file is truncated.
    """
    by_file: dict[Path, dict[str, StoredTensor]] = defaultdict(dict)
    for name, stored in wanted.items():
        if stored.dtype not in _FLOATS:
            raise CheckpointError(stored.name, f"holds {stored.dtype} instead of floats")
        by_file[stored.file][name] = stored
    for path, tensors in by_file.items():
        with _reader(path) as read:
            for name, stored in tensors.items():
                yield name, _read_whole(stored, read, dtype or stored.dtype)


def read_file(path: Path) -> dict[str, Tensor]:
    """Every tensor of a small file in its stored dtype. Raises CheckpointError as `stream` does."""
    return dict(stream(index_file(path)))


def unpickle(path: Path, device: str = "cpu") -> dict[str, Tensor]:
    """A pickled state dict, memory-mapped if the format allows; device `meta` reads only names and shapes.

    Raises:
        CheckpointError: The file is truncated, or holds anything but dense tensors.
    """
    state = unpickle_any(path, device)
    if not isinstance(state, dict):
        raise CheckpointError(path.name, "holds no state dict")
    for name, tensor in state.items():
        if not isinstance(name, str) or not isinstance(tensor, Tensor):
            raise CheckpointError(f"{path.name}: {name}", f"is of type {type(tensor).__name__}, not a tensor")
        if tensor.layout is not torch.strided or tensor.is_quantized:
            raise CheckpointError(name, "is sparse or quantised; only plain tensors are supported")
    return {name: tensor.detach() for name, tensor in state.items()}


def unpickle_any(path: Path, device: str = "cpu") -> Any:
    """The contents of a pickled file of tensors and plain containers. Raises CheckpointError."""
    try:
        # Files from before PyTorch 1.6 are not zip archives and cannot be mapped.
        mapped = device == "cpu" and zipfile.is_zipfile(path)
        return torch.load(path, map_location=device, weights_only=True, mmap=mapped or None)
    except pickle.UnpicklingError as refused:
        reason = "is truncated, not a PyTorch file, or holds more than tensors, which could run code: it is not loaded"
        raise CheckpointError(path.name, reason) from refused
    except FileNotFoundError as missing:
        raise CheckpointError(path.name, f"is missing from {path.parent}") from missing
    except (RuntimeError, EOFError, OSError, ValueError, KeyError, AttributeError) as broken:
        raise CheckpointError(path.name, f"is truncated or not a PyTorch file: {_first_line(broken)}") from broken


def _index_shards(folder: Path, index: str) -> dict[str, StoredTensor]:
    listed = read_json(folder / index).get("weight_map")
    if not isinstance(listed, dict) or not all(isinstance(file, str) for file in listed.values()):
        raise CheckpointError(f"{index}: weight_map", "is not a table of tensors and their files")
    files = sorted(set(listed.values()))
    for file in files:
        if file != Path(file).name or "\\" in file or Path(file).suffix not in (".safetensors", ".bin"):
            reason = "is not the name of a .safetensors or .bin file in the folder"
            raise CheckpointError(f"{index}: weight_map", f"{file!r} {reason}")
    stored: dict[str, StoredTensor] = {}
    for file in files:
        for name, tensor in index_file(folder / file).items():
            if name in stored:
                raise CheckpointError(name, f"is in both {stored[name].file.name} and {file}")
            if listed.get(name) != file:
                raise CheckpointError(name, f"is in {file}, but {index} does not list it there")
            stored[name] = tensor
    for name in sorted(listed.keys() - stored.keys()):
        raise CheckpointError(name, f"is not in {listed[name]}, although {index} lists it there")
    return stored


def _open_safetensors(path: Path) -> Any:
    try:
        # Read, not mapped: mapped pages would count as resident memory in addition to the weights.
        return safe_open(path, "pt", backend="pread")
    except FileNotFoundError as missing:
        raise CheckpointError(path.name, f"is missing from {path.parent}") from missing
    except (SafetensorError, OSError) as broken:
        raise CheckpointError(path.name, f"is truncated or not a safetensors file: {_first_line(broken)}") from broken


@contextmanager
def _reader(path: Path) -> Iterator[_ReadRows]:
    if path.suffix == ".safetensors":
        with _open_safetensors(path) as file:
            yield lambda name, rows: file.get_slice(name)[rows]
    else:
        # Mapped again for each piece, which releases the pages of earlier ones.
        yield lambda name, rows: unpickle(path)[name][rows]


def _read_whole(stored: StoredTensor, read: _ReadRows, dtype: torch.dtype) -> Tensor:
    """A few rows at a time, so that neither casting nor checking ever doubles the memory of a tensor."""
    whole = torch.empty(stored.shape, dtype=dtype)
    rows = stored.shape[0] if stored.shape else 0
    step = max(1, _PIECE_BYTES * rows // max(1, stored.size_bytes))
    pieces: list[slice | EllipsisType] = [slice(start, min(start + step, rows)) for start in range(0, rows, step)]
    for piece in pieces or [...]:
        try:
            whole[piece] = read(stored.name, piece)
        except (SafetensorError, OSError) as broken:
            raise CheckpointError(
                stored.name, f"cannot be read from {stored.file.name}: {_first_line(broken)}"
            ) from broken
        if not _finite(whole[piece]):
            raise CheckpointError(stored.name, f"holds NaN or infinite values in {dtype}")
    return whole


def _finite(values: Tensor) -> bool:
    """By the minimum and maximum, to which NaN propagates, so no mask of all values is allocated."""
    return not values.numel() or all(bool(bound.isfinite()) for bound in values.aminmax())


def _dtype(name: str, code: str) -> torch.dtype:
    if code not in _DTYPES:
        raise CheckpointError(name, f"has the number format {code}, which is not supported")
    return _DTYPES[code]


def _first_line(error: BaseException) -> str:
    return str(error).split("\n", 1)[0][:200]
