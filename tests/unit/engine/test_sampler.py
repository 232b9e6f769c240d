import torch

from model_core.engine.sampler import Sampler


def test_greedy_takes_the_likeliest() -> None:
    assert Sampler(0.0, 1.0, None).sample(torch.tensor([0.1, 2.0, 1.9])) == 1


def test_the_same_seed_draws_the_same() -> None:
    logits = torch.randn(50)
    draws = [[sampler.sample(logits) for _ in range(20)] for sampler in (Sampler(1.0, 1.0, 7), Sampler(1.0, 1.0, 7))]
    assert draws[0] == draws[1]
    assert len(set(draws[0])) > 1


def test_top_p_keeps_the_smallest_set_that_reaches_it() -> None:
    logits = torch.tensor([0.5, 0.3, 0.15, 0.05]).log()
    sampler = Sampler(1.0, 0.75, 0)
    assert {sampler.sample(logits) for _ in range(200)} == {0, 1}
    assert {Sampler(1.0, 0.01, 0).sample(logits) for _ in range(5)} == {0}
