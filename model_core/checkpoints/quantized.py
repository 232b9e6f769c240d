"""Weight-only quantisation of decoders to 8 or 4 bits by torchao, an optional dependency (extra `quantized`)."""

from typing import Any, Literal, get_args

import torch
from torch import nn

from model_core.errors import InvalidInput
from model_core.language.decoder import DecoderStack
from model_core.language.lora import AdaptedLinear

Precision = Literal["int8", "int4"]

# Weights of a row that share a scale in 4 bits: the smallest group that torchao's kernels support.
_GROUP = 32
_ROWS = 16


def quantize(decoder: DecoderStack, precision: Precision) -> None:
    """Quantises the weights of a decoder's projections in place; all else is unchanged, including adapters.

    Call it after the decoder has been cast and moved, which quantised weights cannot be. Compared with bfloat16 the
    layers' weights take half the memory (`int8`, a scale for each row) or a third (`int4`, a scale and a zero point for
    32 weights).

    Args:
        decoder: In float32 or bfloat16; 4 bits are fast only in bfloat16.
        precision: `int8` or `int4`; the latter runs on CPUs.

    Raises:
        InvalidInput: The precision is unknown, torchao is not installed, or the decoder's device or widths do not
            support it. The decoder is unchanged.
    """
    if precision not in get_args(Precision):
        raise InvalidInput("precision", f"{precision!r} is not one of {', '.join(get_args(Precision))}")
    projections = {name: module for name, module in decoder.named_modules() if isinstance(module, AdaptedLinear)}
    for name, module in projections.items():
        if type(module.weight.data) is not torch.Tensor:
            raise InvalidInput("precision", f"{name} is already quantised")
        if precision == "int4":
            _check_four_bits(name, module)
    quantize_, config = _library(precision)
    quantize_(decoder, config, filter_fn=lambda module, _name: isinstance(module, AdaptedLinear))


def _check_four_bits(name: str, module: nn.Linear) -> None:
    if module.weight.device.type != "cpu":
        raise InvalidInput("precision", f"int4 runs on CPUs only, and {name} is on {module.weight.device}")
    if module.in_features % _GROUP or module.out_features % _ROWS:
        shape = f"{module.out_features} x {module.in_features}"
        raise InvalidInput("precision", f"int4 needs multiples of {_ROWS} x {_GROUP}, and {name} has {shape} weights")


def _library(precision: Precision) -> tuple[Any, Any]:
    """torchao's function and its config for a precision."""
    try:
        from torchao.prototype.quantization.int4 import PrototypeInt4WeightOnlyConfig
        from torchao.quantization import Int8WeightOnlyConfig, quantize_
    except ImportError as missing:
        raise InvalidInput("precision", "quantisation needs torchao: pip install lyra-platform[quantized]") from missing
    if precision == "int8":
        return quantize_, Int8WeightOnlyConfig(set_inductor_config=False)
    return quantize_, PrototypeInt4WeightOnlyConfig(group_size=_GROUP, set_inductor_config=False)
