"""Adapters trained with PEFT are those that the engine loads."""

from pathlib import Path

import pytest
import torch

from model_core.checkpoints.peft_adapters import load_adapter
from model_core.errors import CheckpointError
from model_core.language.decoder import Decoder
from model_core.language.lora import LoraConfig
from model_core.presets import tiny
from model_core.training.lora_training import add_adapter, write_adapter

LORA = LoraConfig(rank=3, alpha=5)


def decoder() -> Decoder:
    torch.manual_seed(0)
    return tiny.LANGUAGE.build().requires_grad_(False).eval()


def trained(projections: tuple[str, ...] = tiny.LORA_PROJECTIONS) -> Decoder:
    """A decoder whose adapter has an effect."""
    adapted = decoder()
    add_adapter(adapted, "speech", LORA, projections, None)
    torch.manual_seed(1)
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.2)
    return adapted.eval()


@pytest.mark.parametrize("projections", [tiny.LORA_PROJECTIONS, ("q_proj", "down_proj")])
def test_a_saved_adapter_computes_the_same_as_the_trained_one(tmp_path: Path, projections: tuple[str, ...]) -> None:
    learned, engine = trained(projections), decoder()
    write_adapter(learned, "speech", tmp_path, torch.float32)
    load_adapter(engine, "speech", tmp_path)
    embeds = torch.randn(2, 9, tiny.LANGUAGE.width)
    torch.testing.assert_close(engine(embeds, adapter="speech"), learned(embeds))
    assert not torch.allclose(engine(embeds), learned(embeds), atol=1e-3)


def test_a_new_adapter_changes_nothing_yet() -> None:
    adapted = decoder()
    embeds = torch.randn(1, 5, tiny.LANGUAGE.width)
    before = adapted(embeds)
    add_adapter(adapted, "speech", LORA, tiny.LORA_PROJECTIONS, None)
    torch.testing.assert_close(adapted(embeds), before)


def test_an_adapter_can_start_from_a_saved_one(tmp_path: Path) -> None:
    learned, further = trained(), decoder()
    write_adapter(learned, "speech", tmp_path, torch.float32)
    add_adapter(further, "long_speech", LORA, tiny.LORA_PROJECTIONS, tmp_path)
    embeds = torch.randn(1, 5, tiny.LANGUAGE.width)
    torch.testing.assert_close(further(embeds), learned(embeds))


def test_an_adapter_of_another_shape_is_refused(tmp_path: Path) -> None:
    write_adapter(trained(), "speech", tmp_path)
    with pytest.raises(CheckpointError, match="where this stage trains"):
        add_adapter(decoder(), "speech", LoraConfig(rank=3, alpha=9), tiny.LORA_PROJECTIONS, tmp_path)
