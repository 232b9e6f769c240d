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
MAX_LOGIT_BIASES = 300
MAX_LOGIT_BIAS = 100
MAX_SCHEMA_BYTES = 64 * 1024

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
    `lyra.v1.SamplingParams` carries it to the engine. Names and meanings are those of OpenAI and vLLM.

    Attributes:
        max_tokens: Maximum number of answer tokens; None for as many as the context has room for.
        temperature: 0 samples greedily.
        top_k: Number of most likely tokens that are sampled from; 0 is off.
        top_p: Nucleus sampling: probability mass of the tokens that are sampled from.
        min_p: Tokens less likely than this share of the most likely token's probability are never sampled; 0 is off.
        presence_penalty: Subtracted from the logits of tokens that the answer already contains.
        frequency_penalty: Subtracted from the logit of a token for each time that the answer already contains it.
        repetition_penalty: Divides positive logits, and multiplies negative ones, of tokens that the text of the
            prompt or the answer contains; 1 is off.
        logit_bias: Added to the logits of these token ids; at most MAX_LOGIT_BIASES, each within MAX_LOGIT_BIAS of 0.
        seed: Makes sampling repeatable; None for a random one.
        stop: Strings that end the answer, at most MAX_STOPS of 1 to MAX_STOP_CHARACTERS characters; not part of it.
        end_loops: Whether an answer that repeats itself ends there.
        logprobs: Whether each token comes with its log-probability.
        top_logprobs: Number of most likely tokens whose log-probabilities come with each token; needs `logprobs`.
        json_schema: JSON schema that the answer follows, as text of at most MAX_SCHEMA_BYTES; empty is off.

    Raises:
        InvalidInput: a value is out of bounds; it is named.
    """

    max_tokens: int | None = _bounded(None, ge=1, le=2**31 - 1)
    temperature: float = _bounded(0.0, ge=0, le=2)
    top_k: int = _bounded(0, ge=0, le=2**31 - 1)
    top_p: float = _bounded(1.0, gt=0, le=1)
    min_p: float = _bounded(0.0, ge=0, le=1)
    presence_penalty: float = _bounded(0.0, ge=-2, le=2)
    frequency_penalty: float = _bounded(0.0, ge=-2, le=2)
    repetition_penalty: float = _bounded(1.0, gt=0, le=100)
    logit_bias: Mapping[int, float] = field(default_factory=dict, hash=False)
    seed: int | None = _bounded(None, ge=0, le=2**64 - 1)
    stop: tuple[str, ...] = ()
    end_loops: bool = False
    logprobs: bool = False
    top_logprobs: int = _bounded(0, ge=0, le=20)
    json_schema: str = ""

    def __post_init__(self) -> None:
        for each in fields(self):
            _check_bounds(each.name, getattr(self, each.name), each.metadata)
        if len(self.stop) > MAX_STOPS:
            raise InvalidInput("stop", f"{len(self.stop)} strings are over the limit of {MAX_STOPS}")
        if not all(1 <= len(text) <= MAX_STOP_CHARACTERS for text in self.stop):
            raise InvalidInput("stop", f"each string has to have 1 to {MAX_STOP_CHARACTERS} characters")
        if self.top_logprobs and not self.logprobs:
            raise InvalidInput("top_logprobs", "is only for logprobs: true")
        _check_logit_bias(self.logit_bias)
        if (size := len(self.json_schema.encode(errors="surrogatepass"))) > MAX_SCHEMA_BYTES:
            raise InvalidInput("json_schema", f"{size:,} bytes are over the limit of {MAX_SCHEMA_BYTES:,}")

    def check_vocabulary(self, size: int) -> None:
        """Checks token ids against a model's vocabulary. Raises InvalidInput if it has no such token."""
        if (largest := max(self.logit_bias, default=0)) >= size:
            raise InvalidInput("logit_bias", f"{largest} is not a token id: the model's are 0 to {size - 1}")


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


def _check_logit_bias(biases: Mapping[int, float]) -> None:
    if len(biases) > MAX_LOGIT_BIASES:
        raise InvalidInput("logit_bias", f"{len(biases)} tokens are over the limit of {MAX_LOGIT_BIASES}")
    for token, bias in biases.items():
        if token < 0:
            raise InvalidInput("logit_bias", f"{token} is not a token id")
        if not -MAX_LOGIT_BIAS <= bias <= MAX_LOGIT_BIAS:
            raise InvalidInput(
                "logit_bias",
                f"{bias:g} is out of range: it has to be at least -{MAX_LOGIT_BIAS} and at most {MAX_LOGIT_BIAS}",
            )
