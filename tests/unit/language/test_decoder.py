"""The decoder against transformers and PEFT as oracles."""

import json
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from model_core.checkpoints.peft_adapters import load_adapter, save_adapter
from model_core.errors import WeightsMissing
from model_core.language.decoder import Decoder
from model_core.language.lora import PROJECTIONS, AdaptedLinear, LoraConfig, rows_of

CONFIG = Decoder.Config(vocabulary=50, width=32, layers=3, heads=4, key_value_heads=2, feed_forward=48, context=64)


@pytest.fixture
def oracle() -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=50,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        rms_norm_eps=1e-5,
        rope_parameters={"rope_type": "default", "rope_theta": 100_000.0},
        tie_word_embeddings=True,
    )
    return LlamaForCausalLM(config).eval()


@pytest.fixture
def decoder(oracle: LlamaForCausalLM) -> Decoder:
    made = CONFIG.build().eval()
    made.load_state_dict(oracle.model.state_dict())
    return made


def randomise(decoder: Decoder, adapter: str) -> None:
    for path, parameter in decoder.named_parameters():
        if f".adapters.{adapter}." in path:
            torch.nn.init.normal_(parameter, std=0.2)


@torch.inference_mode()
def logits_of(decoder: Decoder, ids: Tensor, adapter: str | None = None) -> Tensor:
    return decoder.logits(decoder(decoder.embed_tokens(ids), adapter=adapter))


@torch.inference_mode()
def test_logits_match_transformers(oracle: LlamaForCausalLM, decoder: Decoder) -> None:
    ids = torch.randint(0, 50, (2, 11))
    torch.testing.assert_close(logits_of(decoder, ids), oracle(ids).logits, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("pieces", [[11], [10, 1], [1] * 11, [4, 4, 3]])
@torch.inference_mode()
def test_chunked_prefill_gives_the_same_logits(decoder: Decoder, pieces: list[int]) -> None:
    ids = torch.randint(0, 50, (1, 11))
    cache = decoder.new_cache(2)
    hidden = [decoder(decoder.embed_tokens(piece), cache) for piece in ids.split(pieces, dim=1)]
    torch.testing.assert_close(decoder.logits(torch.cat(hidden, 1)), logits_of(decoder, ids), atol=1e-5, rtol=1e-4)


def test_without_an_adapter_output_is_bit_identical_to_the_base_model(decoder: Decoder) -> None:
    ids = torch.randint(0, 50, (1, 9))
    before = logits_of(decoder, ids)
    decoder.add_adapter("speech", LoraConfig(rank=2, alpha=4), PROJECTIONS)
    assert torch.equal(logits_of(decoder, ids, "speech"), before)
    randomise(decoder, "speech")
    assert torch.equal(logits_of(decoder, ids), before)
    assert not torch.allclose(logits_of(decoder, ids, "speech"), before)


@torch.inference_mode()
def test_merging_the_adapter_for_a_long_prompt_gives_the_same_output() -> None:
    torch.manual_seed(0)
    layer = AdaptedLinear(24, 40, bias=True)
    for name in ("speech", "vision"):
        layer.add_adapter(name, LoraConfig(rank=3, alpha=6))
        torch.nn.init.normal_(layer.get_parameter(f"adapters.{name}.lora_B.weight"))
    base = layer.weight.clone()
    prompt = torch.randn(1, 600, 24)
    for adapter in ("speech", ["speech"]):
        rows = rows_of(adapter, prompt.device)
        parts = torch.cat([layer(part, rows) for part in prompt.split(100, dim=1)], dim=1)
        torch.testing.assert_close(layer(prompt, rows), parts)
    assert torch.equal(layer.weight, base)
    assert torch.equal(
        layer(prompt, rows_of(None, prompt.device)), torch.nn.functional.linear(prompt, base, layer.bias)
    )
    two = torch.cat([prompt, prompt])
    together = layer(two, rows_of(["speech", "vision"], two.device))
    torch.testing.assert_close(together[:1], layer(prompt, rows_of("speech", prompt.device)))
    torch.testing.assert_close(together[1:], layer(prompt, rows_of("vision", prompt.device)))


@torch.inference_mode()
def test_each_row_of_a_batch_has_its_own_adapter(decoder: Decoder) -> None:
    for name in ("speech", "vision"):
        decoder.add_adapter(name, LoraConfig(rank=2, alpha=4), PROJECTIONS)
        randomise(decoder, name)
    ids = torch.randint(0, 50, (4, 9))
    rows = ["speech", None, "vision", "speech"]
    together = decoder(decoder.embed_tokens(ids), adapter=rows)
    for row, adapter in enumerate(rows):
        alone = decoder(decoder.embed_tokens(ids[row : row + 1]), adapter=adapter)
        torch.testing.assert_close(together[row : row + 1], alone, atol=1e-5, rtol=1e-4)
    decoder.remove_adapter("speech")
    assert decoder.adapters == ("vision",)
    assert not any("speech" in path for path, _ in decoder.named_parameters())


@torch.inference_mode()
def test_sequences_with_caches_of_different_lengths_share_a_batch(decoder: Decoder) -> None:
    first, then = [torch.randint(0, 50, (n,)) for n in (3, 9, 1)], [torch.randint(0, 50, (n,)) for n in (4, 1, 2)]
    caches = [decoder.new_cache(1) for _ in first]
    for ids in (first, then):
        padded = torch.nn.utils.rnn.pad_sequence(ids, batch_first=True)
        hidden = decoder(decoder.embed_tokens(padded), caches, lengths=[len(row) for row in ids])
    for row, (one, two) in enumerate(zip(first, then, strict=True)):
        whole = decoder(decoder.embed_tokens(torch.cat((one, two))[None]))[0, len(one) :]
        torch.testing.assert_close(hidden[row, : len(two)], whole, atol=1e-5, rtol=1e-4)


def test_saved_adapter_gives_the_same_output_in_peft(
    oracle: LlamaForCausalLM, decoder: Decoder, tmp_path: Path
) -> None:
    decoder.add_adapter("speech", LoraConfig(rank=3, alpha=6), PROJECTIONS)
    randomise(decoder, "speech")
    save_adapter(decoder, "speech", tmp_path)
    ids = torch.randint(0, 50, (1, 9))
    with torch.inference_mode():
        theirs = PeftModel.from_pretrained(oracle, str(tmp_path)).eval()(ids).logits
    torch.testing.assert_close(logits_of(decoder, ids, "speech"), theirs, atol=2e-3, rtol=2e-3)


def test_adapters_are_unchanged_by_saving_and_loading(decoder: Decoder, tmp_path: Path) -> None:
    for name in ("speech", "vision"):
        decoder.add_adapter(name, LoraConfig(rank=3, alpha=6), ("q_proj", "down_proj"))
        randomise(decoder, name)
        save_adapter(decoder, name, tmp_path / name)
    ids = torch.randint(0, 50, (1, 9))
    again = CONFIG.build().eval()
    again.load_state_dict({k: v for k, v in decoder.state_dict().items() if ".adapters." not in k})
    for name in ("vision", "speech"):
        load_adapter(again, name, tmp_path / name)
    for name in ("speech", "vision"):
        torch.testing.assert_close(logits_of(again, ids, name), logits_of(decoder, ids, name), atol=2e-3, rtol=2e-3)


def test_adapter_of_another_model_is_refused_by_tensor_name(decoder: Decoder, tmp_path: Path) -> None:
    decoder.add_adapter("speech", LoraConfig(rank=3, alpha=6), PROJECTIONS)
    save_adapter(decoder, "speech", tmp_path)
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    (tmp_path / "adapter_config.json").write_text(json.dumps(config | {"r": 5}))
    with pytest.raises(WeightsMissing, match=r"layers\.0\.self_attn\.q_proj\.lora_A"):
        load_adapter(CONFIG.build(), "speech", tmp_path)
