"""LoRA adapters on disk: PEFT's folders, each with the speech projector that was trained with it.

`adapter_config.json` and `adapter_model.safetensors` (or `.bin`) are PEFT's. The projector is in our
`projector.safetensors`, or in the `non_lora_trainables.bin` of the published checkpoints. Everything is read and
checked before a decoder is changed.
"""

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from model_core.checkpoints.published_names import (
    own_adapter_name,
    own_trainable_name,
    peft_name,
    published_trainable_name,
)
from model_core.checkpoints.tensors import StoredTensor, index_file, read_json, stream
from model_core.errors import CheckpointError, InvalidInput
from model_core.language.decoder import DecoderStack
from model_core.language.lora import PROJECTIONS, AdaptedLinear, LoraConfig, LoraWeights, LowRank
from model_core.speech.encoder import SpeechEncoder

CONFIG_FILE = "adapter_config.json"
PROJECTOR_FILE, TRAINABLES_FILE = "projector.safetensors", "non_lora_trainables.bin"
_WEIGHTS_FILES = ("adapter_model.safetensors", "adapter_model.bin")
_PROJECTOR_TENSORS = ("linear1.weight", "linear1.bias", "linear2.weight", "linear2.bias")
# Only projectors with context layers have these.
_CONTEXT_TENSOR = re.compile(r"join\.(weight|bias)|context\.\d{1,2}\.(norm|mix|expand|reduce)\.(weight|bias)")
_MAX_RANK = 4096
# Fields of PEFT's config that are read here, or do not change what an adapter computes. Any other that is set would.
_KNOWN_FIELDS = frozenset({
    "peft_type", "r", "lora_alpha", "lora_dropout", "use_rslora", "bias", "target_modules", "init_lora_weights",
    "task_type", "auto_mapping", "peft_version", "base_model_name_or_path", "revision", "inference_mode",
    "exclude_modules", "layers_pattern", "megatron_core", "eva_config", "qalora_group_size", "ensure_weight_tying",
})  # fmt: skip
# Initialisations that move a part of the base model's weights into the adapter.
_BASE_CHANGING_INITS = ("pissa", "olora", "corda", "loftq", "lora_ga")


@dataclass(frozen=True, slots=True)
class StoredAdapter:
    """An adapter whose tensors have not been read yet: its config, and its tensors by their names in the decoder."""

    config: LoraConfig
    projections: tuple[str, ...]
    tensors: Mapping[str, StoredTensor]

    @property
    def parameters(self) -> int:
        return sum(tensor.parameters for tensor in self.tensors.values())

    def check_against(self, decoder: DecoderStack) -> None:
        """Raises CheckpointError, which names a tensor, if the adapter does not fit this decoder."""
        wanted = _shapes(decoder, self.config.rank, self.projections)
        for name in (*wanted, *(self.tensors.keys() - wanted.keys())):
            if name not in self.tensors:
                raise CheckpointError(peft_name(name), "is missing from the adapter")
            stored = self.tensors[name]
            if name not in wanted:
                raise CheckpointError(stored.name, "belongs to no layer of this model")
            if stored.shape != wanted[name]:
                raise CheckpointError(
                    stored.name,
                    f"has the shape {list(stored.shape)}, where this model and rank {self.config.rank} "
                    f"take {list(wanted[name])}",
                )


def open_adapter(folder: Path) -> StoredAdapter:
    """Reads an adapter's config and the headers of its tensors.

    Raises:
        CheckpointError: A file is missing or truncated, a field of the config is wrong or needs more than plain LoRA,
            or a tensor is unknown.
    """
    config = read_json(folder / CONFIG_FILE)
    weights = next((folder / name for name in _WEIGHTS_FILES if (folder / name).is_file()), None)
    if weights is None:
        raise CheckpointError(_WEIGHTS_FILES[0], f"is missing from {folder}")
    tensors: dict[str, StoredTensor] = {}
    for foreign, stored in index_file(weights).items():
        name = own_adapter_name(foreign)
        if name is None or _projection(name) not in PROJECTIONS:
            raise CheckpointError(foreign, "is unknown: not a tensor of a LoRA adapter of the language model")
        if name in tensors:
            raise CheckpointError(foreign, f"is the same tensor as {tensors[name].name}")
        tensors[name] = stored
    stored_projections = {_projection(name) for name in tensors}
    projections = tuple(projection for projection in PROJECTIONS if projection in stored_projections)
    lora = _lora_config(config)
    _check_targets(config.get("target_modules"), projections)
    return StoredAdapter(lora, projections, tensors)


def read_adapter(decoder: DecoderStack, folder: Path) -> LoraWeights:
    """Reads the adapter in `folder`, checked against the decoder and in its dtype, without changing the decoder.

    Raises:
        CheckpointError: A file, a field of the config or a tensor is wrong; it is named.
    """
    stored = open_adapter(folder)
    stored.check_against(decoder)
    tensors = dict(stream(stored.tensors, decoder.norm.weight.dtype))
    return LoraWeights(stored.config, stored.projections, tensors)


def load_adapter(decoder: DecoderStack, name: str, folder: Path) -> None:
    """Adds the adapter in `folder` to a decoder under `name`; if anything is wrong, the decoder is unchanged.

    Raises:
        CheckpointError: A file, a field of the config or a tensor is wrong; it is named.
    """
    if name in decoder.adapters:
        raise CheckpointError(name, "is the name of an adapter that is already resident")
    decoder.load_adapter(name, read_adapter(decoder, folder))


def save_adapter(decoder: DecoderStack, name: str, folder: Path, dtype: torch.dtype | None = torch.float16) -> None:
    """Writes an adapter as PEFT does.

    Args:
        decoder: The decoder that has the adapter.
        name: Name of the adapter.
        folder: The folder to write, created if it does not exist.
        dtype: Dtype of the tensors on disk; None keeps their own.
    """
    tensors = {
        peft_name(path): own.detach().to("cpu", dtype or own.dtype).contiguous()
        for path, own in adapter_parameters(decoder, name).items()
    }
    updates = {
        path.rsplit(".", 1)[-1]: update
        for path, module in decoder.layers[0].named_modules()
        if isinstance(module, AdaptedLinear)
        and name in module.adapters
        and isinstance(update := module.adapters[name], LowRank)
    }
    one = next(iter(updates.values()))
    rank = one.lora_A.out_features
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "r": rank,
        "lora_alpha": one.scale * rank,
        "lora_dropout": one.dropout,
        "target_modules": [projection for projection in PROJECTIONS if projection in updates],
        "bias": "none",
        "inference_mode": True,
    }
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / _WEIGHTS_FILES[0], {"format": "pt"})
    (folder / CONFIG_FILE).write_text(json.dumps(config, indent=2) + "\n")


def load_projector(encoder: SpeechEncoder, name: str, folder: Path) -> None:
    """Adds the speech projector in an adapter's folder to an encoder under `name`.

    Raises:
        InvalidInput: the folder has no speech projector, or the name is taken or not a valid one.
        CheckpointError: a tensor is missing, unknown, misshapen or not finite.
    """
    tensors = read_projector(folder)
    if tensors is None:
        raise InvalidInput("adapter", f"{folder.name} has no speech projector")
    encoder.add_projector(name, tensors)


def read_projector(folder: Path) -> dict[str, Tensor] | None:
    """The speech projector of an adapter's folder, by the names of SpeechProjector, as it is stored; None without one.

    Raises:
        CheckpointError: a tensor is missing, unknown, misshapen or not finite.
    """
    stored = index_projector(folder)
    return None if stored is None else dict(stream(stored))


def index_projector(folder: Path) -> dict[str, StoredTensor] | None:
    """What `read_projector` would read, from headers alone. Raises CheckpointError."""
    if (folder / PROJECTOR_FILE).is_file():
        stored = index_file(folder / PROJECTOR_FILE)
    elif (folder / TRAINABLES_FILE).is_file():
        stored = {}
        for foreign, tensor in index_file(folder / TRAINABLES_FILE).items():
            name = own_trainable_name(foreign)
            if name is None:
                raise CheckpointError(foreign, "is unknown: not a tensor of a speech projector")
            stored[name] = tensor
    else:
        return None
    check_projector(stored)
    return stored


def check_projector(stored: Mapping[str, StoredTensor]) -> None:
    """Raises CheckpointError if the tensors are not those of a speech projector, of whatever size."""
    for name in (*_PROJECTOR_TENSORS, *stored):
        if name not in stored:
            raise CheckpointError(name, "is missing from the speech projector")
        if _CONTEXT_TENSOR.fullmatch(name):
            continue
        if name not in _PROJECTOR_TENSORS:
            raise CheckpointError(stored[name].name, "is unknown: not a tensor of a speech projector")
        if len(stored[name].shape) != (2 if name.endswith("weight") else 1):
            raise CheckpointError(stored[name].name, f"has the shape {list(stored[name].shape)}")
    hidden, width = stored["linear1.weight"].shape[0], stored["linear2.weight"].shape[0]
    for name, shape in (("linear1.bias", (hidden,)), ("linear2.weight", (width, hidden)), ("linear2.bias", (width,))):
        if stored[name].shape != shape:
            raise CheckpointError(
                stored[name].name, f"has the shape {list(stored[name].shape)}, where the others need {list(shape)}"
            )


def save_trainables(projector: Mapping[str, Tensor], folder: Path) -> None:
    """Writes an adapter's speech projector in the format of the published checkpoints."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {published_trainable_name(name): tensor.detach().cpu() for name, tensor in projector.items()}
    torch.save(tensors, folder / TRAINABLES_FILE)


def adapter_parameters(decoder: DecoderStack, name: str) -> dict[str, Tensor]:
    """An adapter's parameters by PEFT's path below the model: `layers.0.self_attn.q_proj.lora_A.weight` and so on."""
    infix = f".adapters.{name}."
    return {path.replace(infix, "."): own for path, own in decoder.named_parameters() if infix in path}


def _shapes(decoder: DecoderStack, rank: int, projections: tuple[str, ...]) -> dict[str, tuple[int, ...]]:
    """The shapes of an adapter of that rank on those projections of every layer."""
    shapes: dict[str, tuple[int, ...]] = {}
    for path, module in decoder.named_modules():
        if isinstance(module, AdaptedLinear) and path.rsplit(".", 1)[-1] in projections:
            shapes[f"{path}.lora_A.weight"] = (rank, module.in_features)
            shapes[f"{path}.lora_B.weight"] = (module.out_features, rank)
    return shapes


def _lora_config(config: Mapping[str, Any]) -> LoraConfig:
    if config.get("peft_type") != "LORA":
        raise CheckpointError(f"{CONFIG_FILE}: peft_type", f"{config.get('peft_type')!r} is not supported, only 'LORA'")
    for field in sorted(config.keys() - _KNOWN_FIELDS):
        if config[field]:
            raise CheckpointError(f"{CONFIG_FILE}: {field}", f"{config[field]!r} is not supported, only plain LoRA")
    start = config.get("init_lora_weights", True)
    if isinstance(start, str) and start.lower().startswith(_BASE_CHANGING_INITS):
        raise CheckpointError(f"{CONFIG_FILE}: init_lora_weights", f"{start!r} changes the base; it is not supported")
    if config.get("bias", "none") != "none":
        raise CheckpointError(f"{CONFIG_FILE}: bias", f"{config['bias']!r} is not supported, only 'none'")
    rank = _number(config, "r", None)
    if rank != int(rank) or not 1 <= rank <= _MAX_RANK:
        raise CheckpointError(f"{CONFIG_FILE}: r", f"{rank} is not a rank from 1 to {_MAX_RANK}")
    alpha, dropout = _number(config, "lora_alpha", None), _number(config, "lora_dropout", 0.0)
    if not 0 <= dropout < 1:
        raise CheckpointError(f"{CONFIG_FILE}: lora_dropout", f"{dropout} is not at least 0 and less than 1")
    # Rank-stabilised LoRA divides by the square root of the rank; `alpha / rank` has to give the same scale.
    alpha *= math.sqrt(rank) if config.get("use_rslora") else 1
    return LoraConfig(rank=int(rank), alpha=alpha, dropout=dropout)


def _number(config: Mapping[str, Any], field: str, default: float | None) -> float:
    value = config.get(field, default)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise CheckpointError(f"{CONFIG_FILE}: {field}", f"{value!r} is not a number")
    return value


def _check_targets(targets: Any, projections: tuple[str, ...]) -> None:
    """A list has to name the stored projections; a pattern is PEFT's to match, and the tensors show what it matched."""
    if isinstance(targets, list) and {str(target).rsplit(".", 1)[-1] for target in targets} != set(projections):
        raise CheckpointError(
            f"{CONFIG_FILE}: target_modules",
            f"names {', '.join(sorted(map(str, targets)))}; there are tensors of {', '.join(projections) or 'none'}",
        )


def _projection(name: str) -> str:
    """`layers.0.mlp.up_proj.lora_A.weight` -> `up_proj`; empty for a tensor of another kind."""
    path = name.split(".")
    return path[-3] if len(path) > 3 and path[-2] in ("lora_A", "lora_B") and path[-1] == "weight" else ""
