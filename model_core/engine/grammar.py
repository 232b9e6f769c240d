"""Constrains answers to JSON of a schema: which tokens may come next.

Shapes: V vocabulary.
"""

import math
import threading
from collections.abc import Iterable

import numpy as np
import torch
from llguidance import LLMatcher, LLParserLimits, LLTokenizer
from tokenizers import Tokenizer
from torch import Tensor

from model_core.engine.sampler import SamplingFailed
from model_core.errors import InvalidInput

# At most one space between the parts of the JSON: small models like to go on with white space for ever.
_WHITE_SPACE = " ?"
# Work of the library, which gives up beyond it. Measured: 0.3 s to compile, 15 ms for a token; 40 MB for the states.
_LIMITS = LLParserLimits(
    initial_lexer_fuel=1_000_000,
    step_lexer_fuel=200_000,
    step_max_items=50_000,
    max_lexer_states=20_000,
    max_grammar_size=500_000,
    verbose_errors=False,
)
_MAX_ERROR_CHARACTERS = 200


class UnusableSchema(InvalidInput, SamplingFailed):
    """No answer can follow this JSON schema, or finding out takes too long."""


class JsonGrammar:
    """Compiles JSON schemas for a tokenizer. May be used by several threads.

    Compiling takes up to a second, so it has no place on the thread that runs the model.

    Args:
        tokenizer: The language model's.
        vocabulary: Number of logits, V.
        stop_ids: Tokens that end an answer; allowed once the JSON is complete.
    """

    def __init__(self, tokenizer: Tokenizer, vocabulary: int, stop_ids: Iterable[int]) -> None:
        self._tokenizer = tokenizer
        self._vocabulary = vocabulary
        self._stop_ids = sorted(stop_ids)
        self._indexed: LLTokenizer | None = None
        self._lock = threading.Lock()

    def compile(self, schema: str) -> "JsonConstraint":
        """Prepares the constraint of one answer.

        Args:
            schema: JSON schema as text.

        Raises:
            UnusableSchema: it is not a JSON schema, uses keywords that are not supported, contradicts itself, or is too
                complex.
        """
        try:
            grammar = LLMatcher.grammar_from_json_schema(
                schema,
                overrides={"whitespace_flexible": True, "whitespace_pattern": _WHITE_SPACE, "lenient": False},
            )
        except ValueError as error:
            raise _unusable(str(error)) from None
        constraint = JsonConstraint(LLMatcher(self._index(), grammar, log_level=0, limits=_LIMITS), self._vocabulary)
        # Finds schemas that compile and allow nothing.
        constraint.allowed()
        return constraint

    def _index(self) -> LLTokenizer:
        """The vocabulary as the library needs it: made for the first schema, in half a second, for it takes 40 MB."""
        with self._lock:
            if self._indexed is None:
                self._indexed = LLTokenizer(
                    self._tokenizer.to_str(), n_vocab=self._vocabulary, eos_token=self._stop_ids
                )
            return self._indexed


class JsonConstraint:
    """Which tokens may come next in one answer, so that the whole is JSON of its schema."""

    def __init__(self, matcher: LLMatcher, vocabulary: int) -> None:
        self._matcher = matcher
        self._vocabulary = vocabulary

    @property
    def finished(self) -> bool:
        """Whether the JSON is complete and cannot go on: only a stop token may come next."""
        return self._matcher.is_stopped()

    def allowed(self) -> Tensor:
        """[V] booleans, True for tokens that may come next.

        Raises:
            UnusableSchema: the schema turns out to be too complex.
        """
        bits = np.frombuffer(self._matcher.compute_bitmask(), dtype=np.uint8)
        if self._matcher.is_error():
            raise _unusable(self._matcher.get_error())
        return torch.from_numpy(np.unpackbits(bits, count=self._vocabulary, bitorder="little").astype(bool))

    def exclude(self, logits_V: Tensor) -> Tensor:
        """[V] logits -> [V] logits, -inf for tokens that may not come next. Raises as `allowed` does."""
        return logits_V.masked_fill(~self.allowed().to(logits_V.device), -math.inf)

    def accept(self, token: int) -> None:
        """Goes on with a token that may come next."""
        self._matcher.consume_token(token)


def _unusable(reason: str) -> UnusableSchema:
    shown = " ".join(reason.split())
    if len(shown) > _MAX_ERROR_CHARACTERS:
        shown = f"{shown[:_MAX_ERROR_CHARACTERS]}..."
    return UnusableSchema("json_schema", f"cannot be followed: {shown}")
