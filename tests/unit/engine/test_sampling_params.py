import math
from typing import Any

import pytest

from model_core.engine.sampling_params import MAX_STOP_CHARACTERS, SamplingParams
from model_core.errors import InvalidInput


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"max_tokens": 0}, "max_tokens: 0 is out of range: it has to be at least 1 and at most 2147483647"),
        ({"max_tokens": 2**31}, "max_tokens: 2147483648 is out of range"),
        ({"temperature": 2.5}, "temperature: 2.5 is out of range: it has to be at least 0 and at most 2"),
        ({"temperature": -0.1}, "temperature: -0.1 is out of range"),
        ({"temperature": math.nan}, "temperature: nan is out of range"),
        ({"top_p": 0.0}, "top_p: 0 is out of range: it has to be greater than 0 and at most 1"),
        ({"top_p": 1.1}, "top_p: 1.1 is out of range"),
        ({"min_p": -0.1}, "min_p: -0.1 is out of range: it has to be at least 0 and at most 1"),
        ({"min_p": 1.5}, "min_p: 1.5 is out of range"),
        ({"top_k": -1}, "top_k: -1 is out of range: it has to be at least 0 and at most 2147483647"),
        ({"presence_penalty": 2.5}, "presence_penalty: 2.5 is out of range: it has to be at least -2 and at most 2"),
        ({"frequency_penalty": -2.5}, "frequency_penalty: -2.5 is out of range"),
        ({"repetition_penalty": 0.0}, "repetition_penalty: 0 is out of range: it has to be greater than 0"),
        ({"repetition_penalty": math.inf}, "repetition_penalty: inf is out of range"),
        ({"logit_bias": {1: 101.0}}, "logit_bias: 101 is out of range: it has to be at least -100 and at most 100"),
        ({"logit_bias": {1: math.nan}}, "logit_bias: nan is out of range"),
        ({"logit_bias": {-1: 1.0}}, "logit_bias: -1 is not a token id"),
        ({"logit_bias": dict.fromkeys(range(301), 1.0)}, "logit_bias: 301 tokens are over the limit of 300"),
        ({"top_logprobs": 21, "logprobs": True}, "top_logprobs: 21 is out of range: it has to be at least 0 and at"),
        ({"top_logprobs": 1}, "top_logprobs: is only for logprobs: true"),
        ({"json_schema": "é" * 32_769}, "json_schema: 65,538 bytes are over the limit of 65,536"),
        ({"seed": -1}, "seed: -1 is out of range"),
        ({"seed": 2**64}, "seed: 18446744073709551616 is out of range"),
        ({"stop": ("a",) * 5}, "stop: 5 strings are over the limit of 4"),
        ({"stop": ("",)}, "stop: each string has to have 1 to 256 characters"),
        ({"stop": ("a" * (MAX_STOP_CHARACTERS + 1),)}, "stop: each string has to have 1 to 256 characters"),
    ],
)
def test_value_out_of_bounds_is_refused_by_name(values: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        SamplingParams(**values)
    assert str(caught.value).startswith(message)
    assert caught.value.field in values


def test_bounds_are_inclusive_where_they_say_so() -> None:
    SamplingParams(max_tokens=1, temperature=2.0, top_p=1.0, seed=2**64 - 1, stop=("a" * MAX_STOP_CHARACTERS,) * 4)
    SamplingParams(max_tokens=2**31 - 1, temperature=0.0, top_p=1e-9, seed=0)
    SamplingParams(top_k=2**31 - 1, presence_penalty=-2, frequency_penalty=2, logprobs=True, top_logprobs=20)
    SamplingParams(logit_bias=dict.fromkeys(range(300), -100.0), repetition_penalty=1e-9)


def test_biased_token_has_to_be_in_the_vocabulary() -> None:
    params = SamplingParams(logit_bias={0: 1.0, 319: 1.0})
    params.check_vocabulary(320)
    with pytest.raises(InvalidInput, match="logit_bias: 319 is not a token id: the model's are 0 to 318"):
        params.check_vocabulary(319)
