from collections.abc import Iterator, Sequence
from typing import cast

import pytest
import torch
from torch import Tensor

from model_core.engine.projections import AdapterMix, JoinedProjection, OutputProjection
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


def test_logits_are_float32() -> None:
    table, hidden = torch.randn(100, WIDTH).bfloat16(), torch.randn(3, WIDTH).bfloat16()
    logits = OutputProjection.from_weight(table)(hidden)
    assert logits.dtype == torch.float32
    torch.testing.assert_close(logits, hidden.float() @ table.float().T, rtol=1e-2, atol=1e-1)
