"""Sampling parameters on the wire: none is lost, and adjacent versions are compatible."""

from typing import Any

import pytest

from lyra.v1.language_model_pb2 import GenerateHeader
from lyra.v1.language_model_pb2 import SamplingParams as SamplingParamsMessage
from model_core.engine.sampling_params import SAMPLING_FIELDS, SamplingParams
from model_core.errors import InvalidInput
from services.shared.rpc.sampling_codec import from_header, to_header

# A value other than the default for every field, exact in 32 bits.
VALUES: dict[str, Any] = {
    "max_tokens": 9,
    "temperature": 0.5,
    "top_p": 0.25,
    "min_p": 0.125,
    "seed": 2**64 - 1,
    "stop": ("a", "b"),
    "end_loops": True,
    "top_k": 40,
    "presence_penalty": 0.5,
    "frequency_penalty": -0.5,
    "repetition_penalty": 1.25,
    "logit_bias": {3: -100.0, 7: 0.5},
    "logprobs": True,
    "top_logprobs": 5,
    "json_schema": "{}",
}


def test_message_and_parameters_have_the_same_fields() -> None:
    assert {field.name for field in SamplingParamsMessage.DESCRIPTOR.fields} == SAMPLING_FIELDS
    assert VALUES.keys() == SAMPLING_FIELDS


def test_every_field_survives_the_wire() -> None:
    params = SamplingParams(**VALUES)
    assert all(getattr(params, name) != getattr(SamplingParams(), name) for name in SAMPLING_FIELDS)
    header = to_header(params, tenant="acme")
    assert from_header(header) == params
    assert header.tenant == "acme"


def test_unset_fields_have_their_defaults() -> None:
    assert from_header(GenerateHeader()) == SamplingParams()
    assert from_header(GenerateHeader(sampling_params=SamplingParamsMessage())) == SamplingParams()
    assert from_header(to_header(SamplingParams())) == SamplingParams()


def test_a_client_of_the_previous_version_is_understood() -> None:
    header = GenerateHeader(max_tokens=9, temperature=0.5, top_p=0.25, seed=3, stop=["a"], end_loops=True, blocks=2)
    expected = SamplingParams(max_tokens=9, temperature=0.5, top_p=0.25, seed=3, stop=("a",), end_loops=True)
    assert from_header(header) == expected


def test_a_service_of_the_previous_version_is_understood() -> None:
    header = to_header(SamplingParams(**VALUES))
    assert (header.max_tokens, header.temperature, header.top_p) == (9, 0.5, 0.25)
    assert (header.seed, list(header.stop), header.end_loops) == (2**64 - 1, ["a", "b"], True)
    assert to_header(SamplingParams()).max_tokens == 0


def test_an_out_of_range_value_is_refused_by_name() -> None:
    for header in (GenerateHeader(temperature=3), GenerateHeader(sampling_params=SamplingParamsMessage(temperature=3))):
        with pytest.raises(InvalidInput, match="temperature: 3 is out of range"):
            from_header(header)
    with pytest.raises(InvalidInput, match="top_p: 0 is out of range"):
        from_header(GenerateHeader(sampling_params=SamplingParamsMessage(top_p=0)))
