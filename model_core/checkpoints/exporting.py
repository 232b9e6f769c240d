"""Writes a model in the layout of the published checkpoints, so that other programs can read it."""

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import save_torch_state_dict
from tokenizers import Tokenizer
from torch import Tensor, nn

from model_core.checkpoints.hifigan import vocoder_to_published
from model_core.checkpoints.peft_adapters import save_adapter, save_trainables
from model_core.checkpoints.published_config import CONFIG_FILE, published_fields
from model_core.checkpoints.published_names import ADAPTER_FOLDERS, VOCODER_FILE, VOCODER_FOLDER, Part, published_name
from model_core.errors import CheckpointError
from model_core.language.decoder import Decoder
from model_core.speech.projector import SpeechProjector
from model_core.speech.unit_generator import UnitGenerator
from model_core.speech.vocoder import UnitVocoder
from model_core.speech.whisper import WhisperEncoder
from model_core.vision.clip import ClipVisionEncoder
from model_core.vision.qwen import QwenVisionEncoder

SHARD_SIZE = "5GB"


def export(
    folder: Path,
    *,
    decoder: Decoder,
    tokenizer: Tokenizer | None = None,
    speech: WhisperEncoder | None = None,
    speech_projectors: Mapping[str, SpeechProjector] | None = None,
    vision: QwenVisionEncoder | ClipVisionEncoder | None = None,
    speech_generator: UnitGenerator | None = None,
    vocoder: UnitVocoder | None = None,
    names: Mapping[Part, str] | None = None,
    fields: Mapping[str, Any] | None = None,
    shard_size: str = SHARD_SIZE,
) -> None:
    """Writes a folder in the published layout, atomically; every tensor keeps its dtype.

    Args:
        folder: Must not exist, or be empty.
        decoder: The language model with its adapters, of which the layout has `speech` and `long_speech`.
        tokenizer: The language model's.
        speech: Speech encoder, included in the weights.
        speech_projectors: By adapter; that of `speech` is the base model's as well.
        vision: Vision encoder, with its projector if it has one, included in the weights.
        speech_generator: Hidden states to units.
        vocoder: Units to sound.
        names: Names of the encoders in the config.
        fields: Further fields of the config, such as `keep_rate`.
        shard_size: Maximum size of a file, as in `5GB`.

    Raises:
        CheckpointError: The folder is not empty, an adapter has no place in the layout, or a tensor is quantised.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise CheckpointError(str(folder), "is not empty: weights are written into a new or empty folder")
    places = {name: place for place, name in ADAPTER_FOLDERS.items()}
    projectors = speech_projectors or {}
    for name in (*decoder.adapters, *projectors):
        if name not in places:
            raise CheckpointError(name, f"has no place in the published layout, which has {' and '.join(places)}")
    if speech and "speech" not in projectors:
        raise CheckpointError("speech", "has no projector, which the speech encoder needs")
    tensors = _tensors(decoder, speech, projectors.get("speech"), vision, speech_generator)
    config = _config(decoder, speech, projectors.get("speech"), vision, speech_generator, names or {})
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".export-") as scratch:
        made = Path(scratch, "made")
        made.mkdir()
        save_torch_state_dict(tensors, made, max_shard_size=shard_size)
        (made / CONFIG_FILE).write_text(json.dumps({**config, **(fields or {})}, indent=2) + "\n")
        if tokenizer:
            tokenizer.save(str(made / "tokenizer.json"))
        for name in decoder.adapters:
            save_adapter(decoder, name, made / places[name], dtype=None)
            if name in projectors:
                save_trainables(projectors[name].state_dict(), made / places[name])
        if vocoder:
            save_vocoder(vocoder, made / VOCODER_FOLDER)
        if folder.exists():
            folder.rmdir()
        made.rename(folder)


def save_vocoder(vocoder: UnitVocoder, folder: Path) -> None:
    """Writes a vocoder as code-HiFi-GAN does: `g_00500000` and its `config.json`."""
    folder.mkdir(parents=True, exist_ok=True)
    state, config = vocoder_to_published(vocoder)
    torch.save({"generator": state}, folder / VOCODER_FILE)
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")


def _tensors(
    decoder: Decoder,
    speech: WhisperEncoder | None,
    projector: SpeechProjector | None,
    vision: QwenVisionEncoder | ClipVisionEncoder | None,
    generator: UnitGenerator | None,
) -> dict[str, Tensor]:
    modules: dict[Part, nn.Module | None] = {
        "language": decoder,
        "speech_projector": projector,
        "speech_tower": speech,
        "vision_tower": vision.vision_tower if vision else None,
        "vision_projector": vision.mm_projector if isinstance(vision, ClipVisionEncoder) else None,
        "speech_generator": generator,
    }
    tensors = {}
    for part, module in modules.items():
        for name, tensor in (module.state_dict() if module else {}).items():
            if type(tensor) is not Tensor:
                raise CheckpointError(name, f"is a {type(tensor).__name__}; quantised weights cannot be exported")
            if ".adapters." not in name:
                tensors[published_name(part, name)] = tensor
    return tensors


def _config(
    decoder: Decoder,
    speech: WhisperEncoder | None,
    projector: SpeechProjector | None,
    vision: QwenVisionEncoder | ClipVisionEncoder | None,
    generator: UnitGenerator | None,
    names: Mapping[Part, str],
) -> dict[str, Any]:
    shape = None
    if generator:
        inner = generator.config
        shape = UnitGenerator.Config(
            hidden_width=generator.hidden_width,
            layers=inner.layers,
            width=inner.width,
            heads=inner.heads,
            feed_forward=inner.feed_forward,
            upsample=generator.upsample,
            units=generator.units,
        )
    return published_fields(
        decoder.config,
        group=projector.group if projector else 0,
        encoder_width=speech.config.width if speech else 0,
        generator=shape,
        vision_tower=(names.get("vision_tower") or vision.model) if vision else "",
        speech_tower=names.get("speech_tower", "speech_tower") if speech else "",
    )
