"""Weights of 8 and 4 bits: close to the originals, with adapters on top."""

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from model_core.checkpoints.exporting import export
from model_core.checkpoints.peft_adapters import load_adapter, save_adapter
from model_core.checkpoints.quantized import Precision, quantize
from model_core.errors import CheckpointError, InvalidInput
from model_core.language.decoder import Decoder
from model_core.language.lora import PROJECTIONS, AdaptedLinear, LoraConfig
from tests.unit.checkpoints.small import IDS, LANGUAGE, logits_of

WIDE: dict[str, Any] = {**LANGUAGE, "width": 128, "heads": 4, "feed_forward": 256, "rope_sections": (4, 6, 6)}


@pytest.fixture
def decoder() -> Decoder:
    pytest.importorskip("torchao", reason="the extra `quantized` is not installed")
    torch.manual_seed(0)
    made = Decoder.Config(**WIDE).build().eval().bfloat16()
    made.add_adapter("speech", LoraConfig(rank=4, alpha=8), PROJECTIONS)
    return made.bfloat16()


def stored_bytes(weight: Tensor) -> int:
    """Bytes of a weight; those of a quantized one are the sum of its inner tensors."""
    if not hasattr(weight, "__tensor_flatten__"):
        return weight.nbytes
    return sum(stored_bytes(getattr(weight, name)) for name in weight.__tensor_flatten__()[0])


def projection_bytes(decoder: Decoder) -> int:
    return sum(stored_bytes(module.weight) for module in decoder.modules() if isinstance(module, AdaptedLinear))


@pytest.mark.parametrize(("precision", "share", "error"), [("int8", 0.55, 0.03), ("int4", 0.35, 0.25)])
def test_quantized_weights_are_close_to_the_originals(
    decoder: Decoder, precision: Precision, share: float, error: float
) -> None:
    whole, size = logits_of(decoder, IDS).float(), projection_bytes(decoder)
    quantize(decoder, precision)
    assert projection_bytes(decoder) < share * size
    difference = logits_of(decoder, IDS).float() - whole
    assert difference.norm() < error * whole.norm()


@pytest.mark.parametrize("precision", ["int8", "int4"])
def test_adapters_are_loaded_onto_quantized_weights(decoder: Decoder, precision: Precision, tmp_path: Path) -> None:
    for name, parameter in decoder.named_parameters():
        if name.endswith("lora_B.weight"):
            torch.nn.init.normal_(parameter, std=0.2)
    save_adapter(decoder, "speech", tmp_path)
    quantize(decoder, precision)
    with_first = logits_of(decoder, IDS, "speech")
    load_adapter(decoder, "again", tmp_path)
    torch.testing.assert_close(logits_of(decoder, IDS, "again"), with_first)
    assert not torch.allclose(logits_of(decoder, IDS), with_first)


def test_quantized_weights_are_neither_exported_nor_quantized_again(decoder: Decoder, tmp_path: Path) -> None:
    quantize(decoder, "int8")
    with pytest.raises(InvalidInput, match="is already quantised"):
        quantize(decoder, "int4")
    with pytest.raises(CheckpointError, match=r"q_proj\.weight: is a"):
        export(tmp_path / "made", decoder=decoder)
    assert not (tmp_path / "made").exists()


def test_parts_that_cannot_be_quantized_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    decoder = Decoder.Config(**{**WIDE, "feed_forward": 72}).build()
    with pytest.raises(InvalidInput, match=r"gate_proj has 72 x 128 weights"):
        quantize(decoder, "int4")
    with pytest.raises(InvalidInput, match="'int2' is not one of int8, int4"):
        quantize(decoder, "int2")  # type: ignore[arg-type]
    monkeypatch.setitem(sys.modules, "torchao.quantization", None)
    with pytest.raises(InvalidInput, match=r"pip install lyra-platform\[quantized\]"):
        quantize(decoder, "int8")
    assert type(decoder.layers[0].mlp.up_proj.weight.data) is Tensor  # type: ignore[union-attr]
