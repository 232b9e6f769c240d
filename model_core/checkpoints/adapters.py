"""LoRA adapters on disk: a PEFT folder (`adapter_config.json`, `adapter_model.safetensors`) with our projector."""

import json
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from model_core.errors import WeightsMissing
from model_core.language.decoder import Decoder
from model_core.language.lora import PROJECTIONS, AdaptedLinear, LoraConfig, LowRank

_CONFIG_FILE, _WEIGHTS_FILE = "adapter_config.json", "adapter_model.safetensors"
_PREFIX = "base_model.model.model."


def load_adapter(decoder: Decoder, name: str, folder: Path) -> None:
    """Adds the adapter in `folder` to a decoder under `name`.

    Raises:
        WeightsMissing: a file is missing, or its tensors do not fit the decoder (named in the message).
    """
    try:
        config = json.loads((folder / _CONFIG_FILE).read_text())
        stored = load_file(folder / _WEIGHTS_FILE)
    except FileNotFoundError as missing:
        raise WeightsMissing(f"adapter {name}: {missing.filename} is missing") from missing
    decoder.add_adapter(name, LoraConfig(rank=config["r"], alpha=config["lora_alpha"]), tuple(config["target_modules"]))
    expected = adapter_parameters(decoder, name)
    odd = sorted(stored.keys() ^ {_PREFIX + path for path in expected})
    odd += [
        f"{_PREFIX}{path}" for path, own in expected.items() if not odd and own.shape != stored[_PREFIX + path].shape
    ]
    if odd:
        raise WeightsMissing(f"adapter {name} does not fit the model: {odd[0]} ({len(odd)} tensors in all)")
    with torch.no_grad():
        for path, own in expected.items():
            own.copy_(stored[_PREFIX + path])


def save_adapter(decoder: Decoder, name: str, folder: Path) -> None:
    """Writes an adapter as PEFT would, in float16."""
    tensors = {
        _PREFIX + path: own.detach().to(torch.float16) for path, own in adapter_parameters(decoder, name).items()
    }
    adapted = {path.rsplit(".", 1)[-1]: module for path, module in decoder.layers[0].named_modules()}
    updates = {
        projection: update
        for projection, module in adapted.items()
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
    save_file(tensors, folder / _WEIGHTS_FILE, {"format": "pt"})
    (folder / _CONFIG_FILE).write_text(json.dumps(config, indent=2) + "\n")


def adapter_parameters(decoder: Decoder, name: str) -> dict[str, Tensor]:
    """An adapter's parameters by PEFT's path below the model: `layers.0.self_attn.q_proj.lora_A.weight` and so on."""
    infix = f".adapters.{name}."
    return {path.replace(infix, "."): own for path, own in decoder.named_parameters() if infix in path}
