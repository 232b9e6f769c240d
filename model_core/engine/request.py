"""What the engine is asked for, and the events that it answers with.

Shapes: E width.
"""

from dataclasses import dataclass, field
from typing import Literal

from torch import Tensor

from model_core.engine.logprobs import TokenLogprob
from model_core.engine.sampling_params import SamplingParams

Priority = Literal[0, 1]
INTERACTIVE: Priority = 0
BATCH: Priority = 1

FinishReason = Literal["stop", "length"]


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationOptions:
    """How a prompt is answered.

    Attributes:
        sampling: How tokens are chosen, and where the answer ends.
        adapter: LoRA adapter; empty for the one that fits the prompt, `base` for none.
        keep_rate: Share of the context tokens kept after each block of layers, greater than 0 and at most 1 (off); None
            for the model's default.
        blocks: Number of blocks, 1 (off) to the number of layers; None for the model's default.
        hidden_states: Whether each token comes with its hidden state.
        tenant: Whose request it is; cached prefixes are never shared between tenants.
        priority: INTERACTIVE goes before BATCH.
    """

    sampling: SamplingParams = field(default_factory=SamplingParams)
    adapter: str = ""
    keep_rate: float | None = None
    blocks: int | None = None
    hidden_states: bool = False
    tenant: str = ""
    priority: Priority = INTERACTIVE


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of a request.

    Attributes:
        prompt_tokens: All tokens of the prompt, including speech and vision tokens.
        adapter: Adapter that was used; empty for none.
        context_tokens: Number of context tokens (speech and vision) in each block of layers, in order.
        cached_tokens: Prompt tokens that the prefix cache had.
    """

    prompt_tokens: int
    speech_tokens: int
    vision_tokens: int
    completion_tokens: int
    adapter: str
    context_tokens: tuple[int, ...]
    cached_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Delta:
    """The next piece of an answer.

    Attributes:
        text: May be empty.
        tokens: Number of tokens in this piece.
        hidden_states: [tokens, E] floats, if requested.
        logprobs: One for each token, if requested.
    """

    text: str
    tokens: int
    hidden_states: Tensor | None
    logprobs: tuple[TokenLogprob, ...] = ()


@dataclass(frozen=True, slots=True)
class Finish:
    """The end of an answer: `stop` by the model or a stop string, `length` by max_tokens or the context."""

    reason: FinishReason
    usage: Usage


@dataclass(frozen=True, slots=True)
class Failure:
    """The end of a request that failed; others go on."""

    error: Exception


Event = Delta | Finish | Failure
