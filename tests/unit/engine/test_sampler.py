from typing import Any

import torch

from model_core.engine.sampler import Sampler
from model_core.engine.sampling_params import SamplingParams


def test_greedy_takes_the_most_likely_token() -> None:
    assert Sampler(SamplingParams()).sample(torch.tensor([0.1, 2.0, 1.9])) == 1


def test_same_seed_gives_the_same_tokens() -> None:
    logits, seeded = torch.randn(50), SamplingParams(temperature=1.0, seed=7)
    draws = [[sampler.sample(logits) for _ in range(20)] for sampler in (Sampler(seeded), Sampler(seeded))]
    assert draws[0] == draws[1]
    assert len(set(draws[0])) > 1


def test_top_p_samples_from_the_smallest_set_that_reaches_it() -> None:
    logits = torch.tensor([0.5, 0.3, 0.15, 0.05]).log()
    sampler = Sampler(SamplingParams(temperature=1.0, top_p=0.75, seed=0))
    assert {sampler.sample(logits) for _ in range(200)} == {0, 1}
    assert {Sampler(SamplingParams(temperature=1.0, top_p=0.01, seed=0)).sample(logits) for _ in range(5)} == {0}


def sampled(**params: Any) -> set[int]:
    """Tokens that come up in many draws from probabilities of 50, 30, 15 and 5 %."""
    sampler = Sampler(SamplingParams(temperature=1.0, seed=0, **params))
    logits = torch.tensor([0.5, 0.3, 0.15, 0.05]).log()
    return {sampler.sample(logits) for _ in range(400)}


def test_min_p_drops_tokens_relative_to_the_most_likely_one() -> None:
    assert sampled(min_p=0.0) == {0, 1, 2, 3}
    assert sampled(min_p=0.09) == {0, 1, 2, 3}
    assert sampled(min_p=0.2) == {0, 1, 2}
    assert sampled(min_p=0.5) == {0, 1}
    assert sampled(min_p=1.0) == {0}


def test_min_p_comes_before_top_p() -> None:
    """Of what min_p leaves, 62.5 and 37.5 %, the first token alone reaches 60 %; of all four, it does not."""
    assert sampled(top_p=0.6) == {0, 1}
    assert sampled(top_p=0.6, min_p=0.5) == {0}


def test_min_p_applies_after_temperature() -> None:
    logits = torch.tensor([0.5, 0.3, 0.15, 0.05]).log()
    flat, sharp = (Sampler(SamplingParams(temperature=temperature, min_p=0.5, seed=0)) for temperature in (2.0, 0.5))
    assert {flat.sample(logits) for _ in range(400)} == {0, 1, 2}
    assert {sharp.sample(logits) for _ in range(400)} == {0}
