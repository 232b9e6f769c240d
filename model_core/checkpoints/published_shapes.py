"""Modules of the shapes that a published checkpoint should have, to compare its tensors with.

Build them on the meta device. The config does not have the sizes of the encoders and of the projector's hidden layer:
they follow from a few of the tensors, and all others have to agree.
"""

from collections.abc import Mapping
from math import isqrt

from torch import nn

from model_core.checkpoints.peft_adapters import check_projector
from model_core.checkpoints.published_config import PublishedConfig
from model_core.checkpoints.published_names import Part
from model_core.checkpoints.tensors import StoredTensor
from model_core.errors import CheckpointError
from model_core.speech.projector import SpeechProjector
from model_core.speech.whisper import WhisperEncoder


def named_parts(config: PublishedConfig) -> tuple[Part, ...]:
    """The parts that a config mentions, which therefore have to exist."""
    parts: dict[Part, bool] = {
        "language": True,
        "speech_projector": bool(config.speech_tower),
        "speech_tower": bool(config.speech_tower),
        "vision_tower": bool(config.vision_tower),
        "vision_projector": bool(config.vision_tower) and config.vision_projector,
        "speech_generator": config.generator is not None,
    }
    return tuple(part for part, named in parts.items() if named)


def projector_config(config: PublishedConfig, stored: Mapping[str, StoredTensor]) -> SpeechProjector.Config:
    """Shape of a speech projector. Raises CheckpointError if the tensors are none that fits the model."""
    check_projector(stored)
    first, second = stored["linear1.weight"], stored["linear2.weight"]
    if first.shape[1] != config.group * config.encoder_width:
        frames = f"{config.group} frames of {config.encoder_width}"
        raise CheckpointError(first.name, f"has the shape {list(first.shape)}, where the input is {frames}")
    if second.shape[0] != config.language.width:
        message = f"has the shape {list(second.shape)}, where the model is {config.language.width} wide"
        raise CheckpointError(second.name, message)
    return SpeechProjector.Config(
        encoder_width=config.encoder_width,
        model_width=config.language.width,
        group=config.group,
        hidden_width=first.shape[0],
    )


def expected_module(config: PublishedConfig, part: Part, stored: Mapping[str, StoredTensor]) -> nn.Module:
    """The module that a part is loaded into.

    Raises:
        CheckpointError: The config does not mention the part, or a tensor that determines a size is missing or empty.
    """
    if part not in named_parts(config):
        raise CheckpointError(part, "is in the files, but the config does not mention it")
    match part:
        case "language":
            return config.language.build()
        case "speech_projector":
            return projector_config(config, stored).build()
        case "speech_tower":
            return _whisper(stored, config.encoder_width).build()
        case "vision_tower":
            return _clip_tower(stored) if config.vision_projector else _qwen_tower(stored, config.language.width)
        case "vision_projector":
            first, width = _shape(stored, "0.weight", 2), config.language.width
            return nn.Sequential(nn.Linear(first[1], width), nn.GELU(), nn.Linear(width, width))
        case "speech_generator":
            assert config.generator is not None
            return config.generator.build()


def _whisper(stored: Mapping[str, StoredTensor], width: int) -> WhisperEncoder.Config:
    return WhisperEncoder.Config(
        mel_bins=_shape(stored, "conv1.weight", 3)[1],
        width=width,
        layers=_layers(stored, "layers."),
        heads=1,
        feed_forward=_shape(stored, "layers.0.fc1.weight", 2)[0],
        max_frames=_shape(stored, "embed_positions.weight", 2)[0],
    )


def _qwen_tower(stored: Mapping[str, StoredTensor], token_width: int) -> nn.Module:
    # Imported here: transformers takes seconds, and only vision encoders need it.
    from model_core.vision.qwen import QwenVisionEncoder

    width, _, frames, patch, _ = _shape(stored, "patch_embed.proj.weight", 5)
    fed, merged = _shape(stored, "blocks.0.mlp.fc1.weight", 2), _shape(stored, "merger.mlp.0.weight", 2)
    encoder = QwenVisionEncoder.Config(
        model="",
        token_width=token_width,
        width=width,
        layers=_layers(stored, "blocks."),
        heads=1,
        feed_forward_ratio=fed[0] // width,
        patch=patch,
        merge=isqrt(merged[1] // width),
        frames_per_patch=frames,
    )
    return encoder.build().vision_tower


def _clip_tower(stored: Mapping[str, StoredTensor]) -> nn.Module:
    from model_core.vision.clip import ClipVisionEncoder

    width, _, _, patch = _shape(stored, "embeddings.patch_embedding.weight", 4)
    positions = _shape(stored, "embeddings.position_embedding.weight", 2)[0]
    encoder = ClipVisionEncoder.Config(
        model="",
        token_width=1,
        image_size=isqrt(positions - 1) * patch,
        patch=patch,
        width=width,
        layers=_layers(stored, "encoder.layers."),
        heads=1,
        feed_forward=_shape(stored, "encoder.layers.0.mlp.fc1.weight", 2)[0],
    )
    return encoder.build().vision_tower


def _shape(stored: Mapping[str, StoredTensor], name: str, dimensions: int) -> tuple[int, ...]:
    if name not in stored:
        raise CheckpointError(name, "is missing")
    shape = stored[name].shape
    if len(shape) != dimensions or 0 in shape:
        raise CheckpointError(stored[name].name, f"has the shape {list(shape)}, instead of {dimensions} dimensions")
    return shape


def _layers(stored: Mapping[str, StoredTensor], prefix: str) -> int:
    """The number of layers, counted by their indices."""
    numbers = (name.removeprefix(prefix).split(".", 1)[0] for name in stored if name.startswith(prefix))
    return len(set(numbers))
