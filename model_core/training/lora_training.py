"""LoRA training with PEFT: injected into our decoder, written and read as a PEFT folder."""

from dataclasses import replace
from pathlib import Path

import torch
from peft import LoraConfig as PeftLoraConfig
from peft import inject_adapter_in_model
from peft.utils import get_peft_model_state_dict, set_peft_model_state_dict
from safetensors.torch import save_file

from model_core.checkpoints.peft_adapters import open_adapter
from model_core.checkpoints.published_names import peft_name
from model_core.checkpoints.tensors import stream
from model_core.errors import CheckpointError
from model_core.language.decoder import Decoder
from model_core.language.lora import LoraConfig


def add_adapter(
    decoder: Decoder, name: str, lora: LoraConfig, projections: tuple[str, ...], start: Path | None
) -> None:
    """Injects a trainable adapter into a decoder and freezes everything else.

    Args:
        decoder: Its own adapters are removed.
        name: Name of the adapter.
        lora: Rank, alpha and dropout.
        projections: Linear layers to adapt.
        start: PEFT folder with initial weights; None starts from an adapter that has no effect yet.

    Raises:
        CheckpointError: the folder does not contain an adapter of this shape.
    """
    for resident in decoder.adapters:
        decoder.remove_adapter(resident)
    if start is not None:
        stored = open_adapter(start)
        stored.check_against(decoder)
        if (stored.config.rank, stored.config.alpha) != (lora.rank, lora.alpha):
            raise CheckpointError(str(start), f"has {stored.config}, where this stage trains {lora}")
    # PEFT declares integers but accepts floats.
    config = PeftLoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,  # type: ignore[arg-type]
        lora_dropout=lora.dropout,
        target_modules=list(projections),
    )
    inject_adapter_in_model(config, decoder, adapter_name=name)
    if start is not None:
        set_peft_model_state_dict(decoder, dict(stream(stored.tensors, torch.float32)), adapter_name=name)
    for path, parameter in decoder.named_parameters():
        learns = f".{name}." in path and "lora_" in path
        parameter.requires_grad_(learns)
        if learns:
            parameter.data = parameter.data.float()


def write_adapter(decoder: Decoder, name: str, folder: Path, dtype: torch.dtype = torch.float16) -> None:
    """Writes an adapter as a PEFT folder."""
    tensors = get_peft_model_state_dict(decoder, adapter_name=name)
    folder.mkdir(parents=True, exist_ok=True)
    config: PeftLoraConfig = decoder.peft_config[name]  # type: ignore[index, assignment]
    save_file(
        {peft_name(key): tensor.detach().to("cpu", dtype).contiguous() for key, tensor in tensors.items()},
        folder / "adapter_model.safetensors",
        {"format": "pt"},
    )
    replace(config, inference_mode=True, target_modules=sorted(config.target_modules or ())).save_pretrained(
        str(folder)
    )
