"""CTranslate2 files of Whisper models, read as tensors with Hugging Face's names.

The file is little-endian: version u32, spec name, spec revision u32, then per variable its name, rank u8, dimensions
u32, type u8, byte count u32 and bytes; then aliases of variables that share storage.
"""

import struct
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from torch import Tensor

_TYPES = {0: np.float32, 1: np.int8, 2: np.int16, 3: np.int32, 4: np.float16}
_NORMS = {"gamma": "weight", "beta": "bias"}


def read_variables(path: Path) -> dict[str, np.ndarray]:
    """Every variable by its CTranslate2 name. Raises ValueError for a file of another kind or a truncated one."""
    with path.open("rb") as file:
        version, spec, _revision = _unpack(file, "<I"), _text(file), _unpack(file, "<I")
        if spec != "WhisperSpec" or version != 6:
            raise ValueError(f"{path.name} holds {spec} of version {version}, not a WhisperSpec of version 6")
        variables = {}
        for _ in range(_unpack(file, "<I")):
            name = _text(file)
            shape = tuple(_unpack(file, "<I") for _ in range(_unpack(file, "<B")))
            kind, size = _unpack(file, "<B"), _unpack(file, "<I")
            data = file.read(size)
            if len(data) != size:
                raise ValueError(f"{path.name} is truncated inside {name}")
            variables[name] = np.frombuffer(data, _TYPES[kind]).reshape(shape)
    return variables


def whisper_tensors(variables: dict[str, np.ndarray]) -> dict[str, Tensor]:
    """Variables as a state dict of transformers' `WhisperForConditionalGeneration`, in their own dtype."""
    tensors: dict[str, Tensor] = {}

    def put(name: str, values: np.ndarray) -> None:
        tensors[f"model.{name}"] = torch.from_numpy(values.copy())

    for key, values in variables.items():
        side, *path = key.split("/")
        match path:
            case ["conv1" | "conv2" as conv, part]:
                put(f"{side}.{conv}.{part}", values)
            case ["position_encodings", "encodings"]:
                put(f"{side}.embed_positions.weight", values)
            case ["embeddings", "weight"]:
                put(f"{side}.embed_tokens.weight", values)
            case ["layer_norm", part]:
                put(f"{side}.layer_norm.{_NORMS[part]}", values)
            case [layer, "ffn", "layer_norm", part]:
                put(f"{side}.{_layer(layer)}.final_layer_norm.{_NORMS[part]}", values)
            case [layer, "ffn", "linear_0" | "linear_1" as linear, part]:
                put(f"{side}.{_layer(layer)}.fc{int(linear[-1]) + 1}.{part}", values)
            case [layer, "self_attention" | "attention" as kind, "layer_norm", part]:
                put(f"{side}.{_layer(layer)}.{_attention(kind)}_layer_norm.{_NORMS[part]}", values)
            case [layer, "self_attention" | "attention" as kind, linear, part]:
                for projection, rows in _split_projections(kind, linear, values).items():
                    # Whisper's key projections have no bias; CTranslate2 stores zeros.
                    if (projection, part) != ("k_proj", "bias"):
                        put(f"{side}.{_layer(layer)}.{_attention(kind)}.{projection}.{part}", rows)
    return tensors


def _split_projections(kind: str, linear: str, values: np.ndarray) -> dict[str, np.ndarray]:
    """CTranslate2 concatenates q, k, v of self-attention, and k, v of cross-attention, along the rows."""
    names = {
        ("self_attention", "linear_0"): ("q_proj", "k_proj", "v_proj"),
        ("self_attention", "linear_1"): ("out_proj",),
        ("attention", "linear_0"): ("q_proj",),
        ("attention", "linear_1"): ("k_proj", "v_proj"),
        ("attention", "linear_2"): ("out_proj",),
    }[kind, linear]
    return dict(zip(names, np.split(values, len(names)), strict=True))


def _layer(name: str) -> str:
    return f"layers.{name.removeprefix('layer_')}"


def _attention(kind: str) -> str:
    return "self_attn" if kind == "self_attention" else "encoder_attn"


def _unpack(file: BinaryIO, layout: str) -> int:
    data = file.read(struct.calcsize(layout))
    if len(data) != struct.calcsize(layout):
        raise ValueError("the file is truncated")
    value: int = struct.unpack(layout, data)[0]
    return value


def _text(file: BinaryIO) -> str:
    return file.read(_unpack(file, "<H")).decode().rstrip("\0")
