"""The extractor against the published numbers, and what it must never change."""

from fractions import Fraction

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import Tensor

from model_core.errors import InvalidInput
from model_core.language.decoder import Decoder
from model_core.language.extractor import Extraction, ExtractionConfig, context_scores, kept_positions
from tests.paths import DATA

CONFIG = Decoder.Config(
    vocabulary=8, width=32, layers=6, heads=4, key_value_heads=2, feed_forward=48, context=512, rope_sections=(2, 1, 1)
)


@pytest.fixture(scope="module")
def decoder() -> Decoder:
    torch.manual_seed(0)
    return CONFIG.build().eval()


def masks(context: int, instruction: int) -> tuple[Tensor, Tensor]:
    """A prompt of some text, `context` context tokens and `instruction` instruction tokens."""
    context_L = torch.tensor([False] * 3 + [True] * context + [False] * instruction)
    instruction_L = torch.tensor([False] * (3 + context) + [True] * instruction)
    return context_L, instruction_L


def extraction(config: ExtractionConfig, *prompts: tuple[int, int]) -> Extraction:
    rows = [masks(*prompt) for prompt in prompts]
    return Extraction(config, [context for context, _ in rows], [instruction for _, instruction in rows])


@pytest.mark.parametrize("case", [0, 1, 2])
def test_scores_and_kept_positions_match_the_published_method(case: int) -> None:
    stored = load_file(DATA / "parity" / "extractor.safetensors")
    given = {name.split(".", 1)[1]: x for name, x in stored.items() if name.startswith(f"case{case}.")}
    q, k = given["query"].transpose(0, 1), given["key"].transpose(0, 1)
    scores = context_scores(q[:, given["instruction_mask"]], k, given["context_mask"])
    torch.testing.assert_close(scores, given["score"], rtol=1e-4, atol=1e-6)
    kept = kept_positions(scores, given["context_mask"], float(given["keep_rate"]))
    assert kept.tolist() == given["kept_index"].tolist()


@given(st.integers(0, 400), st.floats(0.01, 1), st.integers(0, 9), st.integers(0, 9))
def test_number_of_kept_tokens_follows_the_formula(context: int, keep_rate: float, before: int, after: int) -> None:
    context_L = torch.tensor([False] * before + [True] * context + [False] * after, dtype=torch.bool)
    scores = torch.rand(context)
    kept = kept_positions(scores, context_L, keep_rate)
    expected = min(context, max(32, int(Fraction(f"{keep_rate:.6f}") * context)))
    assert len(kept) == before + after + expected
    assert kept.tolist() == sorted(set(kept.tolist()))
    survivors = torch.zeros_like(context_L)
    survivors[kept] = True
    assert survivors[~context_L].all()
    if 0 < expected < context:
        assert scores[survivors[context_L]].min() >= scores[~survivors[context_L]].max()


@pytest.mark.parametrize("at_once", [1, 40, 10_000])
def test_scoring_queries_in_chunks_changes_nothing(monkeypatch: pytest.MonkeyPatch, at_once: int) -> None:
    generator = torch.Generator().manual_seed(0)
    q, k = torch.randn(4, 50, 8, generator=generator), torch.randn(2, 50, 8, generator=generator)
    context_L, instruction_L = masks(40, 7)
    whole = (q.view(2, 2, 50, 8) @ k[:, None].transpose(-1, -2) / 8**0.5).softmax(-1).flatten(0, 1)
    monkeypatch.setattr("model_core.language.extractor._MAX_WEIGHTS", at_once)
    scores = context_scores(q[:, instruction_L], k, context_L)
    torch.testing.assert_close(scores, whole[:, instruction_L][:, :, context_L].mean((0, 1)), rtol=1e-5, atol=1e-7)


@torch.inference_mode()
def test_each_block_gets_what_the_previous_one_kept(decoder: Decoder) -> None:
    prompt = torch.randn(1, 3 + 200 + 10, 32)
    config = ExtractionConfig(blocks=3, keep_rate=0.7)
    dropping, cache = extraction(config, (200, 10)), decoder.new_cache()
    hidden = decoder(prompt, cache, extraction=dropping)
    assert dropping.context_tokens == [[200, 140, 98]]
    assert hidden.shape[1] == len(dropping.kept[0]) == 98 + 13
    assert [cache.layer_length(layer) for layer in range(6)] == [213, 213, 153, 153, 111, 111]
    assert cache.length == 213


@torch.inference_mode()
def test_padding_and_neighbours_in_a_batch_change_nothing(decoder: Decoder) -> None:
    config, prompts = ExtractionConfig(blocks=3, keep_rate=0.5), [(90, 5), (140, 2), (20, 9), (0, 6)]
    rows = [torch.randn(3 + sum(prompt), 32) for prompt in prompts]
    padded = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=7.0)
    together = extraction(config, *prompts)
    caches = [decoder.new_cache() for _ in rows]
    hidden = decoder(padded, caches, lengths=[len(row) for row in rows], extraction=together)
    step = torch.randn(len(rows), 1, 32)
    following = decoder(step, caches)
    for index, (row, prompt) in enumerate(zip(rows, prompts, strict=True)):
        alone, cache = extraction(config, prompt), decoder.new_cache()
        expected = decoder(row[None], cache, extraction=alone)[0]
        assert torch.equal(together.kept[index], alone.kept[0])
        torch.testing.assert_close(hidden[index, : len(expected)], expected, rtol=1e-4, atol=1e-5)
        after = decoder(step[index : index + 1], cache)[0]
        torch.testing.assert_close(following[index], after, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("config", [ExtractionConfig(4, 1.0), ExtractionConfig(1, 0.5), ExtractionConfig(4, 0.5)])
@torch.inference_mode()
def test_nothing_is_dropped_without_context_at_rate_one_or_in_one_block(
    decoder: Decoder, config: ExtractionConfig
) -> None:
    context = 0 if config == ExtractionConfig(4, 0.5) else 100
    prompt = torch.randn(1, 3 + context + 9, 32)
    hidden = decoder(prompt, extraction=extraction(config, (context, 9)))
    assert torch.equal(hidden, decoder(prompt))


def test_gradients_reach_kept_and_dropped_tokens(decoder: Decoder) -> None:
    prompt = torch.randn(2, 3 + 80 + 9, 32, requires_grad=True)
    dropping = extraction(ExtractionConfig(2, 0.5), (80, 9), (80, 9))
    decoder(prompt, extraction=dropping).sum().backward()
    assert prompt.grad is not None
    # A dropped token was still read by the layers before, through the tokens behind it.
    assert (prompt.grad.abs().sum(-1) > 0).all()


def test_blocks_divide_the_layers_evenly() -> None:
    assert ExtractionConfig(4, 0.7).block_ends(28) == [6, 13, 20]
    assert ExtractionConfig(4, 0.7).block_ends(30) == [6, 14, 21]
    assert ExtractionConfig(1, 0.7).block_ends(30) == []


@pytest.mark.parametrize(
    ("config", "field"),
    [
        (ExtractionConfig(0, 0.5), "blocks"),
        (ExtractionConfig(7, 0.5), "blocks"),
        (ExtractionConfig(2, 0.0), "keep_rate"),
        (ExtractionConfig(2, 1.5), "keep_rate"),
        (ExtractionConfig(2, float("nan")), "keep_rate"),
    ],
)
def test_value_out_of_bounds_is_refused_by_name(config: ExtractionConfig, field: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        config.check(6)
    assert caught.value.field == field
