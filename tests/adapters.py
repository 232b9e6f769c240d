"""Random adapters on disk for presets without weights, as PEFT would write them, with a speech projector."""

from pathlib import Path

import torch
from safetensors.torch import save_file

from model_core.checkpoints.peft_adapters import PROJECTOR_FILE, save_adapter
from model_core.language.lora import PROJECTIONS, LoraConfig
from model_core.presets import build_language_model, build_speech_encoder

_NAME = "made"


def write_adapter(folder: Path, preset: str, *, projector: bool = True, rank: int = 2, seed: int = 1) -> None:
    """Writes an adapter that changes what the preset's language model answers."""
    decoder = build_language_model(preset).decoder
    decoder.add_adapter(_NAME, LoraConfig(rank=rank, alpha=4 * rank), PROJECTIONS)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        for name, parameter in decoder.named_parameters():
            if f".{_NAME}." in name:
                parameter.normal_(std=0.5)
        save_adapter(decoder, _NAME, folder)
        if projector:
            made = build_speech_encoder(preset).config.projector.build()
            save_file(made.state_dict(), folder / PROJECTOR_FILE)
