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
