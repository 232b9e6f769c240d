from typing import Any

import pytest
import torch
from torch import Tensor

from model_core.engine.packed_weights import (
    GROUP,
    FloatWeights,
    Int4Product,
    Int8Product,
    PackedProduct,
    Precision,
    Product,
    can_pack,
    make_product,
    quantize_int4,
    quantize_int8,
)
from model_core.errors import InvalidInput

ROWS = (1, 6, 7, 31, 32, 70)
OUTPUTS, INPUTS = 80, 96


def weights(seed: int = 0) -> Tensor:
    return torch.randn(OUTPUTS, INPUTS, generator=torch.Generator().manual_seed(seed))


def relative_error(product: Product, weight: Tensor, rows: int, dtype: torch.dtype, bias: Tensor | None) -> float:
    x = torch.randn(rows, weight.shape[1], generator=torch.Generator().manual_seed(rows)).to(dtype)
    exact = torch.nn.functional.linear(x.double(), weight.double(), bias.double() if bias is not None else None)
    y = product(x)
    assert y.dtype == dtype
    return float((y.double() - exact).norm() / exact.norm())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize("bias", [None, torch.linspace(-2, 2, OUTPUTS)])
@pytest.mark.parametrize(("precision", "bound"), [("int8", 0.012), ("int4", 0.12)])
def test_error_of_few_bits_is_bounded(
    precision: Precision, bound: float, rows: int, bias: Tensor | None, dtype: torch.dtype
) -> None:
    weight, bias = weights().to(dtype), None if bias is None else bias.to(dtype)
    product = make_product(weight, precision, "released", bias)
    assert relative_error(product, weight, rows, dtype, bias) < bound


@pytest.mark.parametrize("float_weights", ["shared", "packed"])
@pytest.mark.parametrize("precision", ["int8", "int4"])
def test_many_rows_are_exact_where_full_precision_is_kept(precision: Precision, float_weights: FloatWeights) -> None:
    weight = weights()
    product = make_product(weight, precision, float_weights)
    assert relative_error(product, weight, 7, torch.float32, None) < 1e-6
    assert relative_error(product, weight, 6, torch.float32, None) > 1e-3


@pytest.mark.parametrize("bias", [None, torch.linspace(-2, 2, OUTPUTS)])
@pytest.mark.parametrize("rows", ROWS)
def test_packed_product_is_exact(rows: int, bias: Tensor | None) -> None:
    assert can_pack(weights())
    assert relative_error(PackedProduct(weights(), bias), weights(), rows, torch.float32, bias) < 1e-6


def test_weights_on_a_grid_of_four_bits_come_back() -> None:
    codes = torch.randint(0, 16, (OUTPUTS, INPUTS // GROUP, GROUP), generator=torch.Generator().manual_seed(0))
    codes[..., 0], codes[..., 1] = 0, 15
    scales = torch.rand(OUTPUTS, INPUTS // GROUP, 1).bfloat16().float() + 0.125
    weight = (codes * scales - 8 * scales).flatten(1)
    found, found_scales, zeros = quantize_int4(weight)
    restored = ((found.unflatten(1, (-1, GROUP)) - 8) * found_scales[..., None] + zeros[..., None]).flatten(1)
    assert torch.equal(found, codes.flatten(1).int())
    assert (restored - weight).norm() < 0.004 * weight.norm()


def test_constant_weights_survive() -> None:
    weight = torch.full((16, 32), 0.5)
    codes, scales, zeros = quantize_int4(weight)
    torch.testing.assert_close(((codes - 8) * scales + zeros).float(), weight)
    assert not make_product(torch.zeros(16, 32), "int8", "released")(torch.randn(2, 32)).any()
    codes8, scales8 = quantize_int8(weight)
    torch.testing.assert_close(codes8 * scales8.float()[:, None], weight, rtol=0.004, atol=0)


def test_no_rows_give_no_rows() -> None:
    for precision in ("float", "int8", "int4"):
        for float_weights in ("shared", "packed"):
            assert make_product(weights(), precision, float_weights)(torch.empty(0, INPUTS)).shape == (0, OUTPUTS)


@pytest.mark.parametrize(
    ("product", "shape"), [(Int8Product, (16, 33)), (Int4Product, (16, 48)), (Int4Product, (20, 64))]
)
def test_unsupported_widths_are_refused(product: Any, shape: tuple[int, int]) -> None:
    with pytest.raises(InvalidInput, match="multiple"):
        product(torch.randn(shape))


def test_settings_that_cannot_be_are_refused() -> None:
    with pytest.raises(InvalidInput, match="'int2' is not one of"):
        make_product(weights(), "int2", "shared")  # type: ignore[arg-type]
    with pytest.raises(InvalidInput, match="cannot release"):
        make_product(weights(), "float", "released")
