"""Measuring an engine before its first request."""

import torch

from model_core.engine.warm_up import warm_up
from model_core.presets import build_language_model


def test_costs_are_known_and_nothing_is_left_behind() -> None:
    model = build_language_model("tiny")
    threads = torch.get_num_threads()
    warm_up(model)
    cost, stats = model.engine.cost, model.engine.stats()
    assert 0 < cost.decode_seconds(1) < 1
    assert cost.prompt_seconds(256) > 0
    assert cost.min_tokens <= cost.prompt_budget(4) <= cost.max_tokens
    assert (stats.running, stats.waiting, stats.pages_used, stats.pages_cached) == (0, 0, 0, 0)
    assert not model.engine.has_work
    assert torch.get_num_threads() == threads
