"""Measuring an engine before its first request."""

import torch

from model_core.engine.engine import EngineConfig
from model_core.engine.warm_up import warm_up
from model_core.presets import build_language_model


def test_an_answer_that_wants_to_end_at_once_holds_nothing_up() -> None:
    model = build_language_model("tiny")
    model.engine.stop_ids = stop_ids = set(range(model.decoder.config.vocabulary))
    warm_up(model)
    assert model.engine.stop_ids is stop_ids


def test_little_memory_holds_nothing_up() -> None:
    model = build_language_model("tiny")
    model.engine_config = EngineConfig(cache_bytes=20 * model.engine.pool.shape.nbytes, max_step_tokens=4096)
    model._engine = None
    warm_up(model)
    assert not model.engine.has_work


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
