"""Code-HiFi-GAN checkpoints: their configuration and tensors to a `UnitVocoder`, and back.

Weight norm writes a weight as a magnitude `weight_g` and a direction `weight_v`; running the model needs the product.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from model_core.errors import CheckpointError
from model_core.speech.vocoder import DurationPredictor, UnitVocoder

_NORMED = ("conv_pre", "ups", "resblocks", "conv_post")
_MAX_DILATION = 1000
_UNSUPPORTED = ("multispkr", "embedder_params", "f0", "lang_embed_dim")


def vocoder_from_published(state: Mapping[str, Tensor], config: Mapping[str, Any]) -> UnitVocoder:
    """A vocoder from a code-HiFi-GAN checkpoint, in evaluation mode.

    Args:
        state: The tensors of its `generator`, with `weight_g` and `weight_v` or weight norm removed.
        config: The contents of its `config.json`.

    Raises:
        CheckpointError: A field or tensor is missing, unknown, misshapen or not finite; it is named.
    """
    shape, tensors = _config_of(config), _without_weight_norm(state)
    _check_fit(tensors, shape)
    vocoder = shape.build()
    vocoder.load_state_dict(tensors)
    return vocoder.eval()


def vocoder_to_published(vocoder: UnitVocoder) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """State and configuration in the layout that `vocoder_from_published` reads, with weight norm."""
    shape = vocoder.config
    config: dict[str, Any] = {
        "num_embeddings": shape.units,
        "embedding_dim": shape.embedding_width,
        "model_in_dim": shape.embedding_width,
        "upsample_initial_channel": shape.channels,
        "upsample_rates": list(shape.upsample_rates),
        "upsample_kernel_sizes": list(shape.upsample_kernels),
        "resblock_kernel_sizes": list(shape.block_kernels),
        "resblock_dilation_sizes": [list(dilations) for dilations in shape.block_dilations],
        "sampling_rate": shape.sample_rate,
        "code_hop_size": shape.samples_per_frame,
    }
    if shape.duration:
        config["dur_predictor_params"] = {
            "encoder_embed_dim": shape.duration.width,
            "var_pred_hidden_dim": shape.duration.hidden_width,
            "var_pred_kernel_size": shape.duration.kernel,
            "var_pred_dropout": 0.5,
        }
    return _with_weight_norm(vocoder.state_dict()), config


def _without_weight_norm(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """float32 tensors, magnitudes and directions multiplied. Raises CheckpointError for one without the other."""
    tensors = {name: tensor.float() for name, tensor in state.items()}
    for name in [name for name in tensors if name.endswith(".weight_v")]:
        direction, magnitude = tensors.pop(name), tensors.pop(f"{name[:-1]}g", None)
        if magnitude is None or magnitude.numel() != direction.shape[0]:
            raise CheckpointError(f"{name[:-1]}g", f"is missing or does not fit {name}")
        norms = _norms(direction)
        tensors[name[:-2]] = direction * magnitude.view(norms.shape) / norms
    return tensors


def _with_weight_norm(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Copies of tensors, the convolutions' weights as magnitude and direction."""
    tensors: dict[str, Tensor] = {}
    for name, tensor in state.items():
        if name.startswith(_NORMED) and name.endswith(".weight"):
            tensors[f"{name}_g"], tensors[f"{name}_v"] = _norms(tensor), tensor.clone()
        else:
            tensors[name] = tensor.clone()
    return tensors


def _check_fit(tensors: Mapping[str, Tensor], config: UnitVocoder.Config) -> None:
    """Compares the checkpoint's tensors with those of the vocoder that its configuration describes.

    No memory is allocated for the vocoder.

    Raises:
        CheckpointError: The first tensor that is missing, unknown, misshapen or not finite, or an impossible size.
    """
    convolutions = 2 * len(config.upsample_rates) * sum(map(len, config.block_dilations))
    if convolutions > len(tensors):
        too_many = f"makes {convolutions} convolutions, but the checkpoint has {len(tensors)} tensors"
        raise CheckpointError("resblock_dilation_sizes", too_many)
    try:
        with torch.device("meta"):
            expected = config.build().state_dict()
    except (RuntimeError, TypeError, ValueError, OverflowError) as error:
        raise CheckpointError("config.json", f"gives the vocoder an impossible size: {error}") from None
    for name in sorted(expected.keys() | tensors.keys()):
        if name not in tensors or name not in expected:
            raise CheckpointError(name, "is missing" if name in expected else "is not part of a unit vocoder")
        if tensors[name].shape != expected[name].shape:
            found, wanted = list(tensors[name].shape), list(expected[name].shape)
            raise CheckpointError(name, f"has shape {found}, not {wanted}")
        if not tensors[name].isfinite().all():
            raise CheckpointError(name, "holds values that are not finite")


def _config_of(config: Mapping[str, Any]) -> UnitVocoder.Config:
    """Checks the fields of a code-HiFi-GAN configuration; CheckpointError names the one that does not do."""
    for name in _UNSUPPORTED:
        if config.get(name):
            raise CheckpointError(name, "this vocoder speaks from units alone")
    duration = config.get("dur_predictor_params")
    try:
        shape = UnitVocoder.Config(
            units=int(config["num_embeddings"]),
            embedding_width=int(config["embedding_dim"]),
            channels=int(config["upsample_initial_channel"]),
            upsample_rates=tuple(map(int, config["upsample_rates"])),
            upsample_kernels=tuple(map(int, config["upsample_kernel_sizes"])),
            block_kernels=tuple(map(int, config["resblock_kernel_sizes"])),
            block_dilations=tuple(tuple(map(int, dilations)) for dilations in config["resblock_dilation_sizes"]),
            sample_rate=int(config.get("sampling_rate", 16_000)),
            duration=DurationPredictor.Config(
                width=int(duration["encoder_embed_dim"]),
                hidden_width=int(duration["var_pred_hidden_dim"]),
                kernel=int(duration["var_pred_kernel_size"]),
            )
            if duration
            else None,
        )
        _check_config(shape, config)
    except KeyError as error:
        raise CheckpointError(str(error.args[0]), "is missing in the configuration of the vocoder") from None
    except (TypeError, ValueError, OverflowError) as error:
        raise CheckpointError("config.json", f"is not a code-HiFi-GAN configuration: {error}") from None
    return shape


def _check_config(shape: UnitVocoder.Config, config: Mapping[str, Any]) -> None:
    width, pairs = shape.embedding_width, list(zip(shape.upsample_rates, shape.upsample_kernels, strict=False))
    durations = shape.duration
    rules = {
        "model_in_dim": int(config.get("model_in_dim", width)) == width,
        "code_hop_size": int(config.get("code_hop_size", shape.samples_per_frame)) == shape.samples_per_frame,
        "upsample_kernel_sizes": len(shape.upsample_rates) == len(shape.upsample_kernels) > 0
        and all(kernel >= rate > 0 and (kernel - rate) % 2 == 0 for rate, kernel in pairs),
        "sampling_rate": shape.sample_rate > 0,
        "upsample_initial_channel": shape.channels >= 2 ** len(pairs),
        "resblock_kernel_sizes": len(shape.block_kernels) > 0 and all(kernel % 2 for kernel in shape.block_kernels),
        "resblock_dilation_sizes": len(shape.block_kernels) == len(shape.block_dilations)
        and all(shape.block_dilations),
        "dur_predictor_params": durations is None or (durations.width == width and durations.kernel % 2 == 1),
    }
    for name, holds in rules.items():
        if not holds:
            raise CheckpointError(name, f"{config.get(name)} does not fit the rest of the vocoder's configuration")
    # What no shape of a tensor tells: so much of the past is kept in memory.
    if not all(0 < dilation <= _MAX_DILATION for dilations in shape.block_dilations for dilation in dilations):
        raise CheckpointError("resblock_dilation_sizes", f"dilations have to lie within 1 and {_MAX_DILATION}")


def _norms(weight: Tensor) -> Tensor:
    """Euclidean norms over all dimensions but the first, with those kept at size 1."""
    norms: Tensor = torch.linalg.vector_norm(weight, dim=tuple(range(1, weight.dim())), keepdim=True)
    return norms
