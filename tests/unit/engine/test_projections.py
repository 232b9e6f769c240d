from collections.abc import Iterator, Sequence
from typing import cast

import pytest
import torch
from torch import Tensor

from model_core.engine.projections import AdapterMix, JoinedProjection, OutputProjection, Precision
from model_core.errors import InvalidInput
from model_core.language.lora import AdaptedLinear, LoraConfig, LowRank, rows_of

WIDTH = 64
MIXES: dict[str, list[str | None]] = {
    "base": [None] * 6,
    "one": ["speech"] * 6,
    "one and base": ["speech", None, None, "speech", "speech", None],
    "all": ["speech", "vision", None, "narrow", "vision", "speech"],
    "elsewhere": ["absent", None, "absent", None, "absent", None],
}


def layers(biases: Sequence[bool] = (False, False, False)) -> list[AdaptedLinear]:
    """Three layers of different widths; `vision` adapts two of them, `narrow` the last, `absent` none."""
    torch.manual_seed(0)
    made = [AdaptedLinear(WIDTH, out, bias) for out, bias in zip((48, 16, 16), biases, strict=True)]
    for index, layer in enumerate(made):
        for name, rank, adapted in (("speech", 8, {0, 1, 2}), ("vision", 4, {0, 2}), ("narrow", 3, {2})):
            if index in adapted:
                add(layer, name, rank)
    return made


def add(layer: AdaptedLinear, name: str, rank: int) -> None:
    layer.add_adapter(name, LoraConfig(rank=rank, alpha=2.5 * rank))
    torch.nn.init.normal_(cast(LowRank, layer.adapters[name]).lora_B.weight, std=0.1)


def separately(parts: Sequence[AdaptedLinear], x: Tensor, names: Sequence[str | None]) -> Tensor:
    rows = rows_of(list(names), x.device)
    return torch.cat([part(x, rows) for part in parts], dim=-1)


@pytest.fixture(autouse=True)
def serving() -> Iterator[None]:
    with torch.inference_mode():
        yield


@pytest.fixture
def x() -> Tensor:
    return torch.randn(6, WIDTH, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("biases", [(False, False, False), (True, True, True), (True, False, True)])
@pytest.mark.parametrize("mix", MIXES)
def test_joined_product_equals_the_separate_ones(mix: str, biases: Sequence[bool], x: Tensor) -> None:
    parts, names = layers(biases), MIXES[mix]
    expected = separately(parts, x, names)
    joined = JoinedProjection(parts)
    torch.testing.assert_close(joined(x, AdapterMix.of(names, "cpu")), expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("mix", ["one", "all"])
@pytest.mark.parametrize("repeats", [1, 20])
def test_bfloat16_is_as_accurate_as_the_separate_layers(mix: str, repeats: int, x: Tensor) -> None:
    """With few rows and with many, whose updates are computed in different dtypes."""
    parts, names = layers((True, False, True)), MIXES[mix] * repeats
    exact = separately(parts, x.repeat(repeats, 1).bfloat16().float(), names)
    parts = [part.bfloat16() for part in parts]
    joined = JoinedProjection(parts)
    x = x.repeat(repeats, 1).bfloat16()
    apart, together = separately(parts, x, names), joined(x, AdapterMix.of(names, "cpu"))
    assert together.dtype == torch.bfloat16
    assert (together - exact).norm() < 1.1 * (apart - exact).norm()


def test_runs_of_rows_mean_the_same_as_a_name_for_each(x: Tensor) -> None:
    joined = JoinedProjection(layers())
    by_name = joined(x, AdapterMix.of(["vision", "vision", None, "speech", "speech", "speech"], "cpu"))
    by_runs = joined(x, AdapterMix.of_runs([("vision", 2), (None, 1), ("narrow", 0), ("speech", 3)], "cpu"))
    assert torch.equal(by_name, by_runs)


def test_base_rows_do_not_depend_on_the_adapters_of_others(x: Tensor) -> None:
    joined = JoinedProjection(layers())
    alone, beside = (joined(x, AdapterMix.of(MIXES[mix], "cpu")) for mix in ("base", "one and base"))
    base = [row for row, name in enumerate(MIXES["one and base"]) if name is None]
    assert torch.equal(alone[base], beside[base])
    assert not torch.equal(alone[0], beside[0])


def test_adapters_are_added_and_removed(x: Tensor) -> None:
    parts = layers()
    joined = JoinedProjection(parts)
    names = ["speech", "new", "new", None, "vision", "new"]
    joined(x, AdapterMix.of(names, "cpu"))
    for part in parts:
        add(part, "new", 5)
    joined.update_adapters()
    torch.testing.assert_close(joined(x, AdapterMix.of(names, "cpu")), separately(parts, x, names))
    for part in parts:
        del part.adapters["speech"]
    joined.update_adapters()
    torch.testing.assert_close(joined(x, AdapterMix.of(names, "cpu")), separately(parts, x, names))


def test_weights_are_stored_once_and_the_layers_still_work(x: Tensor) -> None:
    parts = layers()
    expected = separately(parts, x, MIXES["all"])
    joined = JoinedProjection(parts)
    assert len({part.weight.untyped_storage().data_ptr() for part in parts}) == 1
    torch.testing.assert_close(separately(parts, x, MIXES["all"]), expected)
    parts[1].weight.data.zero_()
    assert not joined(x, AdapterMix.of([None] * 6, "cpu"))[:, 48:64].any()


@pytest.mark.parametrize("mix", ["one", "all"])
def test_packed_weights_give_the_same_and_leave_the_layers_none(mix: str, x: Tensor) -> None:
    parts, names = layers((True, False, True)), MIXES[mix]
    expected = separately(parts, x, names)
    joined = JoinedProjection(parts, float_weights="packed")
    torch.testing.assert_close(joined(x, AdapterMix.of(names, "cpu")), expected, rtol=1e-6, atol=2e-6)
    assert all(part.weight.is_meta and part.weight.shape == (part.out_features, WIDTH) for part in parts)


@pytest.mark.parametrize("precision", ["int8", "int4"])
def test_updates_are_exact_on_weights_of_few_bits(precision: Precision, x: Tensor) -> None:
    parts = layers()
    joined = JoinedProjection(parts, precision)
    base, adapted = (joined(x, AdapterMix.of(MIXES[mix], "cpu")) for mix in ("base", "all"))
    update = separately(parts, x, MIXES["all"]) - separately(parts, x, MIXES["base"])
    torch.testing.assert_close(adapted - base, update, rtol=1e-5, atol=1e-5)


def test_refused_precision_leaves_the_layers_as_they_were(x: Tensor) -> None:
    narrow = AdaptedLinear(24, 16, bias=False)
    with pytest.raises(InvalidInput, match="multiple of 32"):
        JoinedProjection([narrow], "int8", "released")
    assert not narrow.weight.is_meta


@pytest.mark.parametrize("precision", ["float", "int8", "int4"])
def test_logits_are_float32(precision: Precision) -> None:
    table, hidden = torch.randn(96, WIDTH).bfloat16(), torch.randn(3, WIDTH).bfloat16()
    logits, exact = OutputProjection.from_weight(table, precision)(hidden), hidden.float() @ table.float().T
    assert logits.dtype == torch.float32
    assert (logits - exact).norm() < 0.015 * exact.norm()
