"""Sampling parameters: one validated value, from the HTTP request to the sampler.

Imports no torch, for gateway and workers use it, too.
"""

import operator
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import TypeVar

from model_core.errors import InvalidInput

MAX_STOPS = 4
MAX_STOP_CHARACTERS = 256

T = TypeVar("T")

_RELATIONS = {
    "gt": (operator.gt, "greater than"),
    "ge": (operator.ge, "at least"),
    "le": (operator.le, "at most"),
}


def _bounded(default: T, **bounds: float) -> T:
    """A field with its bounds, named as pydantic names them: `gt`, `ge`, `le`."""
    return field(default=default, metadata=bounds)


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingParams:
    """How the tokens of an answer are chosen, and where it ends.

    Everything else follows a field by its name: the HTTP request takes it with its bounds, and the message
    `lyra.v1.SamplingParams` carries it to the engine.

    Attributes:
        max_tokens: Maximum number of answer tokens; None for as many as the context has room for.
        temperature: 0 samples greedily.
        top_p: Nucleus sampling: probability mass of the tokens that are sampled from.
        min_p: Tokens less likely than this share of the most likely token's probability are never sampled; 0 is off.
        seed: Makes sampling repeatable; None for a random one.
        stop: Strings that end the answer, at most MAX_STOPS of 1 to MAX_STOP_CHARACTERS characters; not part of it.
        end_loops: Whether an answer that repeats itself ends there.

    Raises:
        InvalidInput: a value is out of bounds; it is named.
    """

    max_tokens: int | None = _bounded(None, ge=1, le=2**31 - 1)
    temperature: float = _bounded(0.0, ge=0, le=2)
    top_p: float = _bounded(1.0, gt=0, le=1)
    min_p: float = _bounded(0.0, ge=0, le=1)
    seed: int | None = _bounded(None, ge=0, le=2**64 - 1)
    stop: tuple[str, ...] = ()
    end_loops: bool = False

    def __post_init__(self) -> None:
        for each in fields(self):
            _check_bounds(each.name, getattr(self, each.name), each.metadata)
        if len(self.stop) > MAX_STOPS:
            raise InvalidInput("stop", f"{len(self.stop)} strings are over the limit of {MAX_STOPS}")
        if not all(1 <= len(text) <= MAX_STOP_CHARACTERS for text in self.stop):
            raise InvalidInput("stop", f"each string has to have 1 to {MAX_STOP_CHARACTERS} characters")


SAMPLING_FIELDS = frozenset(each.name for each in fields(SamplingParams))


def sampling_bounds(name: str) -> Mapping[str, float]:
    """Bounds of a field: of `gt`, `ge` and `le` those that it has."""
    return SamplingParams.__dataclass_fields__[name].metadata


def _check_bounds(name: str, value: float | None, bounds: Mapping[str, float]) -> None:
    if value is None or all(_RELATIONS[relation][0](value, bound) for relation, bound in bounds.items()):
        return
    shown = f"{value:g}" if isinstance(value, float) else str(value)
    required = " and ".join(f"{_RELATIONS[relation][1]} {bound}" for relation, bound in bounds.items())
    raise InvalidInput(name, f"{shown} is out of range: it has to be {required}")
