"""Who runs, who waits and who gives way."""

import random

import pytest
import torch

from model_core.engine.engine import EngineConfig
from model_core.engine.language_model import LanguageModel
from model_core.engine.request import BATCH, INTERACTIVE, Delta, Failure, Finish, GenerationOptions, Priority
from model_core.engine.sampler import NonFiniteLogits
from model_core.engine.sampling_params import SamplingParams
from model_core.engine.sequence import Sequence
from model_core.errors import InvalidInput, QueueFull
from model_core.language.messages import Message, Role, SpeechPart
from model_core.presets import build_language_model


def tiny(**config: int) -> LanguageModel:
    model = build_language_model("tiny")
    model.engine_config = EngineConfig(**config)  # type: ignore[arg-type]
    return model


def request(
    model: LanguageModel, name: str, *, tenant: str = "acme", priority: Priority = INTERACTIVE, max_tokens: int = 30
) -> Sequence:
    sampling = SamplingParams(max_tokens=max_tokens, logit_bias=dict.fromkeys(stop_ids(model), -100))
    options = GenerationOptions(sampling=sampling, tenant=tenant, priority=priority)
    return model.prepare([Message(Role.USER, [name])], options, name)


def stop_ids(model: LanguageModel) -> list[int]:
    ids = map(model.tokenizer.token_to_id, model.template.stop_tokens)
    return [each for each in ids if each is not None]


def run(model: LanguageModel) -> list[str]:
    """Runs to the end. Returns the requests in the order of their ends."""
    ended = []
    while model.engine.has_work:
        ended += [name for name, event in model.engine.step() if isinstance(event, Finish)]
    return ended


def test_interactive_requests_go_before_batch_requests() -> None:
    model = tiny(max_rows=1)
    for name, priority in (("job 1", BATCH), ("job 2", BATCH), ("chat", INTERACTIVE)):
        model.engine.add_request(request(model, name, priority=priority))
    assert run(model) == ["chat", "job 1", "job 2"]


def test_a_tenant_with_one_request_does_not_wait_for_all_of_another() -> None:
    model = tiny(max_rows=1)
    for number in range(5):
        model.engine.add_request(request(model, f"a{number}", tenant="acme"))
    model.engine.step()
    model.engine.add_request(request(model, "g", tenant="globex"))
    assert run(model)[:2] == ["a0", "g"]


def test_a_full_queue_refuses_with_a_time_and_lets_another_tenant_in() -> None:
    model = tiny(max_rows=1, max_waiting=2)
    for number in range(3):
        model.engine.add_request(request(model, f"a{number}", tenant="acme"))
    with pytest.raises(QueueFull) as refused:
        model.engine.add_request(request(model, "a3", tenant="acme"))
    assert refused.value.retry_after >= 0
    model.engine.add_request(request(model, "g", tenant="globex"))
    events = dict(model.engine.step())
    assert isinstance(events["a2"], Failure)
    assert isinstance(events["a2"].error, QueueFull)
    assert "g" in run(model)


def test_an_id_in_use_is_refused_and_the_first_request_goes_on() -> None:
    model = tiny()
    model.engine.add_request(request(model, "one"))
    with pytest.raises(InvalidInput, match="already in use"):
        model.engine.add_request(request(model, "one"))
    assert run(model) == ["one"]


def test_a_prompt_that_needs_more_pages_than_exist_is_refused() -> None:
    model = tiny(cache_bytes=1)
    with pytest.raises(InvalidInput, match="pages of key-value cache"):
        model.engine.add_request(request(model, "x" * 200))


def test_an_answer_ends_with_reason_length_when_no_page_is_left_for_it() -> None:
    model = tiny(cache_bytes=8 * tiny().engine.pool.shape.nbytes, prefix_cache_bytes=0)
    model.engine.add_request(request(model, "one", max_tokens=500))
    finish = [event for _ in range(500) for _, event in model.engine.step() if isinstance(event, Finish)]
    assert finish[0].reason == "length"
    assert finish[0].usage.completion_tokens < 500
    assert model.engine.stats().pages_used == 0


def test_logits_that_are_not_numbers_end_only_their_request(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny()
    for name in ("good", "bad"):
        model.engine.add_request(request(model, name, max_tokens=5))
    logits = model.engine.runner.logits

    def broken(last_RE: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        normed_RE, logits_RV = logits(last_RE)
        if len(logits_RV) == 2:
            logits_RV = logits_RV.clone()
            logits_RV[1] = torch.nan
        return normed_RE, logits_RV

    monkeypatch.setattr(model.engine.runner, "logits", broken)
    events = []
    while model.engine.has_work:
        events += model.engine.step()
    failures = {name: event for name, event in events if isinstance(event, Failure)}
    assert failures.keys() == {"bad"}
    assert isinstance(failures["bad"].error, NonFiniteLogits)
    assert [name for name, event in events if isinstance(event, Finish)] == ["good"]


def test_answers_advance_in_every_step_while_a_long_prompt_is_read() -> None:
    model = tiny(max_step_tokens=16)
    short = request(model, "short", max_tokens=90)
    model.engine.add_request(short)
    while not short.generated:
        model.engine.step()
    model.engine.add_request(request(model, "x" * 900, max_tokens=1))
    reading = next(each for each in model.engine.scheduler.waiting)
    steps = 0
    while not reading.generated:
        events = [event for name, event in model.engine.step() if name == "short" and isinstance(event, Delta)]
        assert len(events) == 1
        steps += 1
    assert steps > 20


def test_extraction_frees_the_pages_that_it_saves() -> None:
    model = tiny(prefix_cache_bytes=0)
    used = {}
    for keep_rate in (1.0, 0.5):
        options = GenerationOptions(sampling=SamplingParams(max_tokens=2), keep_rate=keep_rate, blocks=2)
        tokens = torch.randn(640, model.width, generator=torch.Generator().manual_seed(0))
        sequence = model.prepare([Message(Role.USER, [SpeechPart(tokens), "what?"])], options)
        model.engine.add_request(sequence)
        while sequence.prefilling:
            model.engine.step()
        used[keep_rate] = model.engine.stats().pages_used
        assert sum(model.engine.stats().pages_by_block) == used[keep_rate]
        model.engine.abort(sequence.request_id)
    assert used[1.0] - used[0.5] == 320 // 16


def test_extraction_keeps_the_same_however_small_the_chunks_are() -> None:
    states = []
    for size in (512, 0):  # 0: one token at a time
        model = tiny(max_step_tokens=size, prefix_cache_bytes=0)
        tokens = torch.randn(200, model.width, generator=torch.Generator().manual_seed(1))
        options = GenerationOptions(sampling=SamplingParams(max_tokens=1), keep_rate=0.3, blocks=2, hidden_states=True)
        delta = next(iter(model.generate([Message(Role.USER, [SpeechPart(tokens), "who is it?"])], options)))
        assert isinstance(delta, Delta)
        assert delta.hidden_states is not None
        states.append(delta.hidden_states)
    torch.testing.assert_close(states[0], states[1])


@pytest.mark.parametrize("count", [300])
def test_aborts_at_random_moments_give_every_page_back(count: int) -> None:
    model = tiny(max_rows=8, max_waiting=count)
    source = random.Random(0)
    open_requests: list[str] = []
    for number in range(count):
        name = f"{number} " + "y" * source.randrange(120)
        model.engine.add_request(request(model, name, tenant=source.choice("abc"), max_tokens=40))
        open_requests.append(name)
        if source.random() < 0.7:
            for request_id, event in model.engine.step():
                if isinstance(event, Finish):
                    open_requests.remove(request_id)
        while len(open_requests) > 12:
            model.engine.abort(open_requests.pop(source.randrange(len(open_requests))))
    for request_id in open_requests:
        model.engine.abort(request_id)
    stats = model.engine.stats()
    assert not model.engine.has_work
    assert (stats.running, stats.waiting, stats.pages_used) == (0, 0, 0)
    assert stats.pages_free + stats.pages_cached == model.engine.pool.pages
