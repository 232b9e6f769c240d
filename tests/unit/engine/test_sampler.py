"""Each sampling option against its definition in plain Python; and rows of a batch do not affect each other."""

import math
import random
from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import Tensor

from model_core.engine.sampler import (
    BatchSampler,
    NonFiniteLogits,
    NoTokenAllowed,
    RowSampling,
    SampledToken,
)
from model_core.engine.sampling_params import SamplingParams

SAMPLER = BatchSampler()
LOGITS = torch.tensor([0.5, 0.3, 0.15, 0.05]).log()


def row(prompt_ids: Sequence[int] = (), sampled_ids: Sequence[int] = (), **params: Any) -> RowSampling:
    return RowSampling(SamplingParams(**params), prompt_ids, sampled_ids)


def sample(logits_V: Tensor, sampling: RowSampling) -> SampledToken:
    (sampled,) = SAMPLER.sample(logits_V[None], [sampling])
    assert isinstance(sampled, SampledToken)
    return sampled


def drawn(logits_V: Tensor = LOGITS, draws: int = 400, **params: Any) -> set[int]:
    """Tokens that come up in many draws."""
    rows = [row(**{"temperature": 1.0, "seed": seed, **params}) for seed in range(draws)]
    return {each.id for each in SAMPLER.sample(logits_V.expand(draws, -1), rows) if isinstance(each, SampledToken)}


def adjusted(
    logits: list[float], params: SamplingParams, prompt_ids: Sequence[int], sampled_ids: Sequence[int]
) -> list[float]:
    """Logits with biases and penalties, by their definition."""
    counts = Counter(sampled_ids)
    values = []
    for token, logit in enumerate(logits):
        logit += params.logit_bias.get(token, 0)
        if token in prompt_ids or token in counts:
            penalty = params.repetition_penalty
            logit = logit / penalty if logit > 0 else logit * penalty
        if token in counts:
            logit -= counts[token] * params.frequency_penalty + params.presence_penalty
        values.append(logit)
    return values


def distribution(logits: list[float], params: SamplingParams) -> list[float]:
    """Probabilities that a token is drawn from, by their definition; discards examples on an edge of it."""
    weights = [math.exp((logit - max(logits)) / params.temperature) for logit in logits]
    assume(all(abs(weight - params.min_p) > 1e-5 for weight in weights if weight < 1))
    weights = [weight if weight >= params.min_p else 0.0 for weight in weights]
    ranked = sorted(range(len(weights)), key=lambda token: (-weights[token], token))
    ranked = ranked[: params.top_k or len(ranked)]
    mass, before, kept = sum(weights[token] for token in ranked), 0.0, []
    for token in ranked:
        if params.top_p < 1:
            assume(abs(before - params.top_p * mass) > 1e-5 * mass)
            if before > params.top_p * mass:
                break
        kept.append(token)
        before += weights[token]
    total = sum(weights[token] for token in kept)
    return [weights[token] / total if token in kept else 0.0 for token in range(len(weights))]


@st.composite
def examples(draw: st.DrawFn) -> tuple[list[float], SamplingParams, list[int], list[int]]:
    """Logits with ties, parameters, and tokens of prompt and answer."""
    logits = draw(st.lists(st.integers(-8, 8).map(lambda n: n / 2), min_size=2, max_size=24))
    token = st.integers(0, len(logits) - 1)
    params = SamplingParams(
        temperature=draw(st.sampled_from([0.0, 0.3, 1.0, 2.0])),
        top_k=draw(st.integers(0, 30)),
        top_p=draw(st.sampled_from([1.0, 0.95, 0.61, 0.07])),
        min_p=draw(st.sampled_from([0.0, 0.03, 0.4, 1.0])),
        presence_penalty=draw(st.sampled_from([0.0, -2.0, 0.7])),
        frequency_penalty=draw(st.sampled_from([0.0, 1.5, -0.3])),
        repetition_penalty=draw(st.sampled_from([1.0, 1.3, 0.6])),
        logit_bias=draw(st.dictionaries(token, st.sampled_from([-100.0, 3.0, 0.5]), max_size=3)),
        seed=draw(st.integers(0, 2**64 - 1)),
    )
    return logits, params, draw(st.lists(token, max_size=5)), draw(st.lists(token, max_size=9))


@given(examples())
def test_token_is_the_one_that_the_definitions_give(
    example: tuple[list[float], SamplingParams, list[int], list[int]],
) -> None:
    logits, params, prompt_ids, sampled_ids = example
    sampling = RowSampling(params, prompt_ids, sampled_ids)
    uniform = sampling.uniform()
    token = sample(torch.tensor(logits), sampling).id
    values = adjusted(logits, params, prompt_ids, sampled_ids)
    if params.temperature == 0:
        assert values[token] == pytest.approx(max(values), abs=1e-5)
        return
    probabilities = distribution(values, params)
    assert probabilities[token] > 0
    before = sum(probabilities[:token])
    assert before - 1e-5 <= uniform <= before + probabilities[token] + 1e-5


def test_draws_follow_the_distribution() -> None:
    sampling = row(temperature=1.0, seed=0)
    counts = Counter(sample(LOGITS, sampling).id for _ in range(4000))
    assert [counts[token] / 4000 for token in range(4)] == pytest.approx([0.5, 0.3, 0.15, 0.05], abs=0.025)


def test_greedy_takes_the_most_likely_token_and_of_equals_the_first() -> None:
    assert sample(torch.tensor([0.1, 2.0, 1.9]), row()).id == 1
    logits = torch.zeros(49_152)
    logits[[40_000, 300, 301]] = 1.0
    assert sample(logits, row()).id == 300


def test_top_p_samples_from_the_smallest_set_that_reaches_it() -> None:
    assert drawn(top_p=0.75) == {0, 1}
    assert drawn(top_p=0.01) == {0}


def test_top_k_samples_from_the_most_likely_tokens() -> None:
    assert drawn(top_k=1) == {0}
    assert drawn(top_k=3) == {0, 1, 2}
    assert drawn(top_k=4) == drawn(top_k=100) == {0, 1, 2, 3}


def test_of_equally_likely_tokens_lower_ids_are_kept() -> None:
    logits = torch.tensor([1.0, 0.0, 2.0, 1.0, 1.0])
    assert drawn(logits, top_k=3) == {0, 2, 3}
    assert drawn(torch.zeros(4), top_p=0.6) == {0, 1, 2}


def test_top_p_counts_the_mass_of_what_top_k_leaves() -> None:
    """Of the first two, 62.5 and 37.5 %, the first alone reaches 60 %; of all four, it does not."""
    assert drawn(top_p=0.6) == {0, 1}
    assert drawn(top_p=0.6, top_k=2) == {0}


def test_min_p_drops_tokens_relative_to_the_most_likely_one() -> None:
    assert drawn(min_p=0.0) == {0, 1, 2, 3}
    assert drawn(min_p=0.09) == {0, 1, 2, 3}
    assert drawn(min_p=0.2) == {0, 1, 2}
    assert drawn(min_p=0.5) == {0, 1}
    assert drawn(min_p=1.0) == {0}


def test_min_p_comes_before_top_p() -> None:
    """Of what min_p leaves, 62.5 and 37.5 %, the first token alone reaches 60 %; of all four, it does not."""
    assert drawn(top_p=0.6, min_p=0.5) == {0}


def test_min_p_applies_after_temperature() -> None:
    assert drawn(temperature=2.0, min_p=0.5) == {0, 1, 2}
    assert drawn(temperature=0.5, min_p=0.5) == {0}


@pytest.mark.parametrize("top_p", [0.3, 0.9, 0.999])
def test_nucleus_of_any_size_is_found(top_p: float) -> None:
    """However many candidates are searched first: here it has about 300, 900 and 999 of 1000 tokens."""
    logits = torch.linspace(0, 0.001, 1000)[torch.randperm(1000, generator=torch.Generator().manual_seed(0))]
    ranked = logits.softmax(-1).double().sort(descending=True, stable=True)
    size = int((ranked.values.cumsum(-1) - ranked.values < top_p).sum())
    tokens = drawn(logits, draws=2000, top_p=top_p)
    assert tokens <= set(ranked.indices[:size].tolist())
    assert len(tokens) > 0.8 * size


@pytest.mark.parametrize("temperature", [0.0, 1e-30, 1e-5, 1e-3])
def test_low_temperature_is_greedy(temperature: float) -> None:
    assert drawn(torch.tensor([-30.0, 30.0, 29.0]), draws=20, temperature=temperature) == {1}


def test_penalties_count_the_tokens_of_the_answer() -> None:
    """Without a penalty, the first token would win each time."""
    logits = torch.tensor([1.0, 0.5, 0.0])
    assert [sample(logits, each).id for each in [row(presence_penalty=0.6)] * 3] == [0, 1, 0]
    assert [sample(logits, each).id for each in [row(frequency_penalty=0.6)] * 4] == [0, 1, 0, 2]
    assert [sample(logits, each).id for each in [row(repetition_penalty=4.0)] * 2] == [0, 1]
    assert sample(logits, row(prompt_ids=[0], repetition_penalty=4.0)).id == 1
    assert sample(logits, row(prompt_ids=[0], presence_penalty=2.0, frequency_penalty=2.0)).id == 0


def test_same_seed_gives_the_same_tokens() -> None:
    logits = torch.randn(50)
    first, second, other = (row(temperature=1.0, seed=seed) for seed in (7, 7, 8))
    draws = [[sample(logits, each).id for _ in range(20)] for each in (first, second, other)]
    assert draws[0] == draws[1] != draws[2]
    assert len(set(draws[0])) > 1


def test_without_a_seed_requests_differ() -> None:
    logits = torch.zeros(1000)
    draws = [[sample(logits, each).id for _ in range(5)] for each in (row(temperature=1.0), row(temperature=1.0))]
    assert draws[0] != draws[1]


@given(st.integers(0, 12), st.booleans())
def test_resumed_request_goes_on_with_the_same_tokens(done: int, seeded: bool) -> None:
    logits = torch.randn(60, generator=torch.Generator().manual_seed(1))
    params = SamplingParams(
        temperature=1.5, seed=3 if seeded else None, frequency_penalty=1.0, repetition_penalty=1.2, top_p=0.9
    )
    whole = RowSampling(params, [1, 2])
    tokens = [sample(logits, whole).id for _ in range(12)]
    resumed = RowSampling(params, [1, 2], tokens[:done], seed=whole.seed)
    assert [sample(logits, resumed).id for _ in range(12 - done)] == tokens[done:]


KINDS: list[dict[str, Any]] = [
    {},
    {"temperature": 1.0},
    {"temperature": 0.7, "top_p": 0.9},
    {"temperature": 1.0, "top_p": 0.999},
    {"temperature": 1.0, "top_k": 20},
    {"temperature": 1.2, "top_k": 300, "top_p": 0.8, "min_p": 0.01},
    {"temperature": 1.0, "min_p": 0.05, "frequency_penalty": 0.5, "repetition_penalty": 1.1},
    {"logit_bias": {5: 100.0, 6: 100.0}, "presence_penalty": 0.5},
    {"temperature": 1.0, "logprobs": True, "top_logprobs": 3},
]


@pytest.mark.parametrize("shuffle", range(3))
def test_row_gets_the_same_tokens_alone_and_in_any_batch(shuffle: int) -> None:
    """Logits as bfloat16 has them: many are equal."""
    generator = torch.Generator().manual_seed(shuffle)
    kinds = random.Random(shuffle).choices(KINDS, k=20)
    logits_RV = (4 * torch.randn(len(kinds), 8192, generator=generator)).bfloat16()
    alone, together = ([row(seed=i, **kind) for i, kind in enumerate(kinds)] for _ in range(2))
    for _ in range(3):
        expected = [sample(logits_V, each) for logits_V, each in zip(logits_RV, alone, strict=True)]
        order = torch.randperm(len(kinds), generator=generator).tolist()
        sampled = SAMPLER.sample(logits_RV[order], [together[index] for index in order])
        assert sampled == [expected[index] for index in order]


def test_tokens_on_a_gpu_are_those_of_the_cpu(gpu: torch.device) -> None:
    logits_RV = 4 * torch.randn(len(KINDS), 8192, generator=torch.Generator().manual_seed(0))
    here, there = ([row(prompt_ids=[1, 2], seed=i, **kind) for i, kind in enumerate(KINDS)] for _ in range(2))
    for _ in range(3):
        sampled = [SAMPLER.sample(logits, rows) for logits, rows in ((logits_RV, here), (logits_RV.to(gpu), there))]
        on_cpu, on_gpu = ([each.id for each in tokens if isinstance(each, SampledToken)] for tokens in sampled)
        assert on_cpu == on_gpu


@pytest.mark.parametrize("params", KINDS)
def test_row_without_usable_logits_fails_alone(params: dict[str, Any]) -> None:
    logits_V = torch.randn(320, generator=torch.Generator().manual_seed(0))
    nan_V, infinite_V, none_V = logits_V.clone(), logits_V.clone(), torch.full_like(logits_V, -math.inf)
    nan_V[9], infinite_V[200] = math.nan, math.inf
    rows = [row(seed=1, **params) for _ in range(5)]
    first, *failed, last = SAMPLER.sample(torch.stack([logits_V, nan_V, infinite_V, none_V, logits_V]), rows)
    assert [type(each) for each in failed] == [NonFiniteLogits, NonFiniteLogits, NoTokenAllowed]
    assert first == last == sample(logits_V, row(seed=1, **params))
    assert [each.sampled for each in rows] == [1, 0, 0, 0, 1]


@pytest.mark.parametrize("params", KINDS)
def test_excluded_token_is_never_sampled(params: dict[str, Any]) -> None:
    logits_V = torch.full((300,), -math.inf)
    logits_V[[5, 77, 299]] = torch.tensor([1.0, 0.0, 1.0])
    sampling = row(seed=4, **params)
    assert {sample(logits_V, sampling).id for _ in range(100)} <= {5, 77, 299}


def test_logits_that_a_penalty_makes_infinite_fail_by_name() -> None:
    sampling = row(prompt_ids=[1], repetition_penalty=1e-45)
    (failed,) = SAMPLER.sample(torch.tensor([[0.0, 1.0]]), [sampling])
    assert isinstance(failed, NonFiniteLogits)


def test_logprobs_are_those_of_the_model() -> None:
    """Whatever temperature, biases and penalties make of them."""
    params: dict[str, Any] = {"logprobs": True, "top_logprobs": 3, "temperature": 2.0, "logit_bias": {3: 100.0}}
    sampled = sample(LOGITS + 7, row(seed=0, **params))
    assert sampled.id == 3
    assert sampled.logprob == pytest.approx(math.log(0.05), abs=1e-5)
    assert [token for token, _ in sampled.top_logprobs] == [0, 1, 2]
    assert [logprob for _, logprob in sampled.top_logprobs] == pytest.approx(LOGITS[:3].tolist(), abs=1e-5)


def test_top_logprobs_of_the_whole_vocabulary_sum_to_one() -> None:
    sampled = sample(torch.randn(15), row(logprobs=True, top_logprobs=20))
    assert len(sampled.top_logprobs) == 15
    assert sum(math.exp(logprob) for _, logprob in sampled.top_logprobs) == pytest.approx(1)
    assert sampled.top_logprobs[0] == (sampled.id, sampled.logprob)


def test_logprobs_come_only_on_request() -> None:
    rows = [row(), row(logprobs=True)]
    without, with_logprob = SAMPLER.sample(torch.stack([LOGITS, LOGITS]), rows)
    assert without == SampledToken(0)
    assert isinstance(with_logprob, SampledToken)
    assert with_logprob.logprob == pytest.approx(math.log(0.5))
    assert with_logprob.top_logprobs == ()


def test_empty_batch() -> None:
    assert SAMPLER.sample(torch.zeros(0, 320), []) == []
