"""Weights of linear products in 8 or 4 bits and in the layout that a processor multiplies fastest.

Reading the weights bounds a product of few rows, arithmetic one of many. So kernels that read 8 or 4 bits win for few
rows, and lose for many, where full precision is both faster and exact. `bench/engine_products.py` has the figures.

Shapes: N rows, I input width, O output width, G groups of 32 inputs (I / 32).
"""

from typing import Literal, Protocol, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from model_core.errors import InvalidInput

# "float" is the dtype of the given weights.
Precision = Literal["float", "int8", "int4"]
# What becomes of the weights in full precision:
# - "shared": they stay as they are, for the products and for their owner.
# - "packed": they are copied into oneDNN's blocked layout, which their owner cannot read; used as they are where there
#   is none.
# - "released": only the 8 or 4 bits stay.
FloatWeights = Literal["shared", "packed", "released"]

# Weights of a row that share a scale and a zero in 4 bits: the group of GGUF's Q4_1.
GROUP = 32
# Rows up to which 8 and 4 bits beat packed weights: between 4 and 8 at widths 576 to 3072, on AMD Zen 5.
_MAX_FEW_ROWS = 6
# Rows from which converting all 8-bit weights and multiplying in full precision beats multiplying by 8 bits.
_CONVERT_ROWS = 32
# The 8-bit kernel reads whole vectors of inputs, past the end of others; the 4-bit kernel computes blocks of outputs.
_INT8_INPUTS = 32
_INT4_OUTPUTS = 16


class Product(Protocol):
    """A linear product with fixed weights."""

    def __call__(self, x_NI: Tensor) -> Tensor:
        """[N, I] -> [N, O] in the dtype of `x_NI`."""


def make_product(
    weight_OI: Tensor, precision: Precision, float_weights: FloatWeights, bias_O: Tensor | None = None
) -> Product:
    """The product with these weights that suits their device.

    Args:
        weight_OI: In float32 or bfloat16.
        precision: Of the weights that few rows are multiplied by.
        float_weights: In which form the product keeps them in full precision, for many rows and precision `float`.
        bias_O: In the same dtype.

    Raises:
        InvalidInput: The precision is unknown, or the device or the widths do not support it, or precision `float` is
            to release its weights.
    """
    if precision not in get_args(Precision):
        raise InvalidInput("precision", f"{precision!r} is not one of {', '.join(get_args(Precision))}")
    if precision == "float" and float_weights == "released":
        raise InvalidInput("float_weights", "precision float cannot release its weights")
    full: Product | None = None
    if float_weights == "packed" and can_pack(weight_OI):
        full = PackedProduct(weight_OI, bias_O)
    elif float_weights != "released":
        full = PlainProduct(weight_OI, bias_O)
    if precision == "float" and full:
        return full
    few = Int8Product(weight_OI, bias_O) if precision == "int8" else Int4Product(weight_OI, bias_O)
    return ByRows(few, full) if full else few


def can_pack(weight_OI: Tensor) -> bool:
    """Whether oneDNN packs such weights on this processor."""
    if weight_OI.device.type != "cpu" or not torch._C._has_mkldnn:
        return False
    if weight_OI.dtype == torch.bfloat16:
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return weight_OI.dtype == torch.float32


class PlainProduct:
    """PyTorch's own product with the given tensor, which is not copied."""

    def __init__(self, weight_OI: Tensor, bias_O: Tensor | None = None) -> None:
        self._weight_OI, self._bias_O = weight_OI, bias_O

    def __call__(self, x_NI: Tensor) -> Tensor:
        return F.linear(x_NI, self._weight_OI, self._bias_O)


class PackedProduct:
    """oneDNN's product with a copy of the weights in its blocked layout.

    `F.linear` brings the weights into that layout in every call, which takes longer than a product of few rows.
    """

    def __init__(self, weight_OI: Tensor, bias_O: Tensor | None = None) -> None:
        self._packed, self._bias_O = torch.ops.mkldnn._reorder_linear_weight(weight_OI), bias_O

    def __call__(self, x_NI: Tensor) -> Tensor:
        y_NO: Tensor = torch.ops.mkldnn._linear_pointwise(x_NI, self._packed, self._bias_O, "none", [], "")
        return y_NO


class Int8Product:
    """8-bit weights with a scale for each output.

    Rows are multiplied in bfloat16, and from 32 on in their own dtype. Rounding them to 8 bits, too, would halve the
    time of many rows, but multiplied the divergence of nano's next-token distribution by nine.
    """

    def __init__(self, weight_OI: Tensor, bias_O: Tensor | None = None) -> None:
        if weight_OI.shape[1] % _INT8_INPUTS:
            raise InvalidInput("precision", f"int8 needs a multiple of {_INT8_INPUTS} inputs, not {weight_OI.shape[1]}")
        self._codes_OI, self._scales_O = quantize_int8(weight_OI)
        self._bias_O = bias_O
        try:
            self._few_rows(weight_OI[:1])
        except (NotImplementedError, RuntimeError) as error:
            raise InvalidInput("precision", f"int8 does not run on {weight_OI.device}") from error

    def __call__(self, x_NI: Tensor) -> Tensor:
        y_NO = self._few_rows(x_NI) if len(x_NI) < _CONVERT_ROWS else self._many_rows(x_NI)
        return y_NO if self._bias_O is None else y_NO.add_(self._bias_O)

    def _few_rows(self, x_NI: Tensor) -> Tensor:
        return torch._weight_int8pack_mm(x_NI.bfloat16(), self._codes_OI, self._scales_O).to(x_NI.dtype)

    def _many_rows(self, x_NI: Tensor) -> Tensor:
        return F.linear(x_NI, self._codes_OI.to(x_NI.dtype)).mul_(self._scales_O)


class Int4Product:
    """4-bit weights with a scale and a zero for every 32 inputs, on CPUs; rows are multiplied in bfloat16."""

    def __init__(self, weight_OI: Tensor, bias_O: Tensor | None = None) -> None:
        outputs, inputs = weight_OI.shape
        if weight_OI.device.type != "cpu":
            raise InvalidInput("precision", f"int4 runs on CPUs only, not on {weight_OI.device}")
        if inputs % GROUP or outputs % _INT4_OUTPUTS:
            needed = f"multiples of {_INT4_OUTPUTS} x {GROUP}"
            raise InvalidInput("precision", f"int4 needs {needed} weights, not {outputs} x {inputs}")
        codes_OI, scales_OG, zeros_OG = quantize_int4(weight_OI)
        self._packed = torch.ops.aten._convert_weight_to_int4pack_for_cpu(codes_OI, 1)
        self._scales_zeros = torch.stack((scales_OG.T, zeros_OG.T), dim=-1).contiguous()
        self._bias_O = bias_O

    def __call__(self, x_NI: Tensor) -> Tensor:
        y_NO: Tensor = torch.ops.aten._weight_int4pack_mm_for_cpu(
            x_NI.bfloat16(), self._packed, GROUP, self._scales_zeros
        ).to(x_NI.dtype)
        return y_NO if self._bias_O is None else y_NO.add_(self._bias_O)


class ByRows:
    """One product for few rows and one for many."""

    def __init__(self, few: Product, many: Product) -> None:
        self._few, self._many = few, many

    def __call__(self, x_NI: Tensor) -> Tensor:
        return self._few(x_NI) if len(x_NI) <= _MAX_FEW_ROWS else self._many(x_NI)


def quantize_int8(weight_OI: Tensor) -> tuple[Tensor, Tensor]:
    """[O, I] int8 codes and [O] bfloat16 scales, whose product is closest to the weights."""
    scales_O = (weight_OI.abs().amax(dim=1).float() / 127).bfloat16()
    scales_O = torch.where(scales_O == 0, 1, scales_O)
    codes_OI = (weight_OI / scales_O.float()[:, None]).round_().clamp_(-127, 127)
    return codes_OI.to(torch.int8), scales_O


def quantize_int4(weight_OI: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """[O, I] int32 codes from 0 to 15, [O, G] bfloat16 scales and zeros: weight = (code - 8) * scale + zero.

    Weights that lie on such a grid, as those of a Q4_1 file do, come back but for the rounding of scale and zero.
    """
    groups_OGI = weight_OI.float().reshape(len(weight_OI), -1, GROUP)
    low_OG, high_OG = groups_OGI.amin(dim=-1), groups_OGI.amax(dim=-1)
    scales_OG = ((high_OG - low_OG) / 15).bfloat16()
    scales_OG = torch.where(scales_OG == 0, 1, scales_OG)
    zeros_OG = (low_OG + 8 * scales_OG.float()).bfloat16()
    codes_OGI = (groups_OGI - zeros_OG.float()[..., None]).div_(scales_OG.float()[..., None]).round_().add_(8)
    return codes_OGI.clamp_(0, 15).to(torch.int32).flatten(1), scales_OG, zeros_OG
