"""`SamplingParams` on the wire. Fields map by name, so that a new one needs no change here."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from lyra.v1.language_model_pb2 import GenerateHeader
from lyra.v1.language_model_pb2 import SamplingParams as SamplingParamsMessage
from model_core.engine.sampling_params import SAMPLING_FIELDS, SamplingParams


def to_header(params: SamplingParams, **others: Any) -> GenerateHeader:
    """A header with these parameters and the fields `others`."""
    values = asdict(params)
    # Read by services of the previous version.
    flat = {each.name: values[each.name] for each in GenerateHeader.DESCRIPTOR.fields if each.GetOptions().deprecated}
    return GenerateHeader(sampling_params=SamplingParamsMessage(**values), **flat, **others)


def from_header(header: GenerateHeader) -> SamplingParams:
    """The parameters of a request; unset fields have their defaults.

    Raises:
        model_core.errors.InvalidInput: A value is out of bounds; the field is its name.
    """
    # Clients of the previous version set the header's own fields of the same names.
    message = header.sampling_params if header.HasField("sampling_params") else header
    values = {each.name: _plain(value) for each, value in message.ListFields() if each.name in SAMPLING_FIELDS}
    return SamplingParams(**values)


def _plain(value: Any) -> Any:
    """Maps and repeated fields as what `SamplingParams` holds."""
    if isinstance(value, Mapping):
        return dict(value)
    return tuple(value) if isinstance(value, Sequence) and not isinstance(value, str) else value
