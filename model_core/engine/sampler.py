"""Samples the next token of each row of a batch from its logits.

Shapes: R rows, V vocabulary, S rows that are sampled at random, T rows of those that top_k or top_p truncates, K most
likely tokens in descending order, L rows with log-probabilities, B blocks of a row.
"""

import math
import secrets
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from model_core.engine.sampling_params import SamplingParams

# Sampling at a temperature below this is greedy; dividing by it would overflow.
_MIN_TEMPERATURE = 1e-5
# Most likely tokens that a nucleus is searched in before the whole vocabulary is.
_CANDIDATES = 256
_MAX_TOP_LOGPROBS = 20
_BLOCK = 128
_64_BITS = 2**64 - 1


class SamplingFailed(RuntimeError):
    """No token can be sampled for a row."""


class NonFiniteLogits(SamplingFailed):
    """The logits of a row hold NaN or +inf, or nothing finite."""

    def __init__(self) -> None:
        super().__init__("the model computed logits that are not finite numbers")


class NoTokenAllowed(SamplingFailed):
    """The constraints of a row exclude every token."""

    def __init__(self) -> None:
        super().__init__("no token is allowed next")


class TokenConstraint(Protocol):
    """Decides which tokens may come next in one answer, for example `grammar.JsonConstraint`."""

    def exclude(self, logits_V: Tensor) -> Tensor:
        """[V] logits -> [V] logits, -inf for tokens that may not come next. Raises SamplingFailed if it cannot tell."""

    def accept(self, token: int) -> None:
        """Goes on with a token that may come next."""


@dataclass(frozen=True, slots=True)
class SampledToken:
    """A token, and how likely it was.

    Log-probabilities are those of the model itself, before temperature, penalties, biases and constraints.

    Attributes:
        id: Its index in the vocabulary.
        logprob: Its log-probability; None if the request did not ask.
        top_logprobs: Ids and log-probabilities of the most likely tokens, in descending order, as many as requested.
    """

    id: int
    logprob: float | None = None
    top_logprobs: tuple[tuple[int, float], ...] = ()


class RowSampling:
    """How the tokens of one request are sampled, and what that depends on: the tokens so far.

    Its randomness depends on the seed and the number of sampled tokens alone, neither on the batch nor on other rows.
    Built with the tokens that were already sampled, it goes on where another one stopped.

    Args:
        params: The request's.
        prompt_ids: Token ids of the prompt's text, for the repetition penalty.
        sampled_ids: Tokens that were already sampled.
        seed: For requests that set none; None for a random one.
        constraint: Of this answer, before its first token.
    """

    def __init__(
        self,
        params: SamplingParams,
        prompt_ids: Iterable[int] = (),
        sampled_ids: Sequence[int] = (),
        seed: int | None = None,
        constraint: TokenConstraint | None = None,
    ) -> None:
        if params.seed is not None:
            seed = params.seed
        self.params = params
        self.seed = secrets.randbits(64) if seed is None else seed
        self.sampled = 0
        self._constraint = constraint
        penalizes_repetition = params.repetition_penalty != 1
        self._penalizes_counts = bool(params.presence_penalty or params.frequency_penalty)
        self._prompt_ids = set(prompt_ids) if penalizes_repetition else set()
        self._sampled_ids: list[int] = []
        self._logit_bias: tuple[Tensor, Tensor] | None = None
        self._scale_V: Tensor | None = None
        self._counts_V: Tensor | None = None
        self.greedy = params.temperature < _MIN_TEMPERATURE
        self.adjusts_logits = bool(constraint or params.logit_bias or penalizes_repetition or self._penalizes_counts)
        for token in sampled_ids:
            self.accept(token)

    def adjusted(self, logits_V: Tensor) -> Tensor:
        """[V] logits -> [V] logits with constraint, biases and penalties, in vLLM's order.

        Raises:
            SamplingFailed: the constraint cannot tell which tokens may come next.
        """
        params = self.params
        if self._constraint is not None:
            logits_V = self._constraint.exclude(logits_V)
        if params.logit_bias:
            ids, biases = self._biases(logits_V)
            logits_V = logits_V.index_add(0, ids, biases)
        if params.repetition_penalty != 1:
            scale_V = self._repetition_scale(logits_V)
            # Of the quotient and the product, whichever is less likely; with a penalty below 1, more likely.
            weaker = torch.minimum if params.repetition_penalty > 1 else torch.maximum
            logits_V = weaker(logits_V / scale_V, logits_V * scale_V)
        if self._penalizes_counts:
            counts_V = self._counts(logits_V)
            logits_V = logits_V - counts_V * params.frequency_penalty
            logits_V -= (counts_V > 0) * params.presence_penalty
        return logits_V

    @torch.inference_mode()
    def accept(self, token: int) -> None:
        """Counts a token as part of the answer."""
        self.sampled += 1
        if self._constraint is not None:
            self._constraint.accept(token)
        if self._penalizes_counts or self.params.repetition_penalty != 1:
            self._sampled_ids.append(token)
        if self._scale_V is not None:
            self._scale_V[token] = self.params.repetition_penalty
        if self._counts_V is not None:
            self._counts_V[token] += 1

    def uniform(self) -> float:
        """The random number for the next token, from 0 to less than 1."""
        return (_mix(_mix(self.seed) + self.sampled) >> 11) * 2.0**-53

    def _biases(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """Ids and biases."""
        if self._logit_bias is None:
            biases = self.params.logit_bias
            ids = torch.tensor(list(biases), device=like.device)
            self._logit_bias = ids, torch.tensor(list(biases.values()), dtype=like.dtype, device=like.device)
        return self._logit_bias

    def _repetition_scale(self, like: Tensor) -> Tensor:
        """[V]: the repetition penalty of tokens of prompt and answer, else 1."""
        if self._scale_V is None:
            self._scale_V = torch.ones_like(like)
            seen = self._prompt_ids.union(self._sampled_ids)
            self._scale_V[torch.tensor(sorted(seen), dtype=torch.long)] = self.params.repetition_penalty
        return self._scale_V

    def _counts(self, like: Tensor) -> Tensor:
        """[V]: how often the answer contains each token."""
        if self._counts_V is None:
            counts_V = torch.bincount(torch.tensor(self._sampled_ids, dtype=torch.long), minlength=len(like))
            self._counts_V = counts_V.to(like)
        return self._counts_V


class BatchSampler:
    """Samples one token for each row, whatever the parameters of its neighbours.

    Greedy at temperature 0. Otherwise, in vLLM's order: temperature; `min_p` drops tokens that are unlikely next to the
    most likely one; the `top_k` most likely ones are kept; of these, the fewest whose probability reaches `top_p`. Of
    equally likely tokens, lower ids come first.
    """

    def sample(self, logits_RV: Tensor, rows: Sequence[RowSampling]) -> list[SampledToken | SamplingFailed]:
        """Samples a token for each row, and counts it as part of the row's answer.

        Args:
            logits_RV: [R, V] floats; -inf excludes a token.
            rows: State of each row.

        Returns:
            For each row its token, or why there is none: its logits are not finite, or all tokens are excluded.
        """
        if not rows:
            return []
        with torch.inference_mode():
            logits_RV = logits_RV.float()
            chosen, peaks = _most_likely(logits_RV)
            adjusted: dict[int, Tensor] = {}
            for index, row in enumerate(rows):
                if row.adjusts_logits and isinstance(chosen[index], int):
                    try:
                        adjusted[index] = row.adjusted(logits_RV[index])
                    except SamplingFailed as error:
                        chosen[index] = error
            if adjusted:
                again = _most_likely(torch.stack(list(adjusted.values())))
                for index, token, peak in zip(adjusted, *again, strict=True):
                    chosen[index], peaks[index] = token, peak
            random = [i for i, row in enumerate(rows) if not row.greedy and isinstance(chosen[i], int)]
            if random:
                logits_SV = _select(logits_RV, random, adjusted)
                drawn = _draw(logits_SV, [peaks[i] for i in random], [rows[i] for i in random])
                for index, token in zip(random, drawn, strict=True):
                    chosen[index] = token
            sampled = [token if isinstance(token, SamplingFailed) else SampledToken(token) for token in chosen]
            _add_logprobs(sampled, logits_RV, rows)
        for row, result in zip(rows, sampled, strict=True):
            if isinstance(result, SampledToken):
                row.accept(result.id)
        return sampled


def _most_likely(logits_RV: Tensor) -> tuple[list[int | SamplingFailed], list[float]]:
    """For each row its most likely token, or why it has none, and that token's logit."""
    # On CPUs, argmax is not vectorized and amax is: the block first, then the token in it.
    blocks_RBK = _blocks(logits_RV)
    block_R1 = blocks_RBK.amax(-1).argmax(-1, keepdim=True)
    ids_R1 = block_R1 * blocks_RBK.shape[2] + _take(blocks_RBK, block_R1).argmax(-1, keepdim=True)
    peaks = logits_RV.gather(-1, ids_R1)[:, 0].tolist()
    return [_failure(peak) or token for token, peak in zip(ids_R1[:, 0].tolist(), peaks, strict=True)], peaks


def _failure(peak: float) -> SamplingFailed | None:
    """Why a row with this largest logit cannot be sampled."""
    if math.isfinite(peak):
        return None
    return NoTokenAllowed() if peak == -math.inf else NonFiniteLogits()


def _select(logits_RV: Tensor, indices: list[int], adjusted: Mapping[int, Tensor]) -> Tensor:
    """The logits of some rows; where they were adjusted, these."""
    if not adjusted:
        return logits_RV if len(indices) == len(logits_RV) else logits_RV[indices]
    return torch.stack([adjusted.get(index, logits_RV[index]) for index in indices])


def _draw(logits_SV: Tensor, peaks: list[float], rows: list[RowSampling]) -> list[int]:
    """Draws a token for each row, by inverting the cumulative distribution at the row's random number."""
    column = partial(_column, device=logits_SV.device)
    params = [row.params for row in rows]
    # The largest becomes 0 first, so that a low temperature overflows nowhere.
    scaled_SV = (logits_SV - column(peaks)).div_(column([each.temperature for each in params]))
    probabilities_SV = scaled_SV.softmax(-1)
    if any(each.min_p for each in params):
        least_S1 = probabilities_SV.amax(-1, keepdim=True) * column([each.min_p for each in params])
        _drop_below(probabilities_SV, least_S1)
    truncated = [index for index, each in enumerate(params) if each.top_k or each.top_p < 1]
    if truncated:
        probabilities_TV = _select(probabilities_SV, truncated, {})
        top_k_T1 = column([params[index].top_k for index in truncated], dtype=torch.long)
        top_p_T1 = column([params[index].top_p for index in truncated], dtype=torch.float64)
        _truncate(probabilities_TV, top_k_T1, top_p_T1)
        if len(truncated) < len(rows):
            probabilities_SV[truncated] = probabilities_TV
    return _invert(probabilities_SV, column([row.uniform() for row in rows], dtype=torch.float64))


def _truncate(probabilities_TV: Tensor, top_k_T1: Tensor, top_p_T1: Tensor, candidates: int = _CANDIDATES) -> None:
    """Keeps the `top_k` most likely tokens, and of these the fewest that reach `top_p`; sets the others to 0.

    Args:
        probabilities_TV: [T, V] floats, not necessarily normalized; changed in place.
        top_k_T1: [T, 1] int64; 0 is off.
        top_p_T1: [T, 1] float64; 1 is off.
        candidates: Number of most likely tokens in which the last one to keep is searched, before it is in all.
    """
    size = probabilities_TV.shape[1]
    top_k_T1 = top_k_T1.where(top_k_T1 < size, 0)
    values_TK = _largest(probabilities_TV, min(size, max(candidates, int(top_k_T1.max()) + 1)))
    sums_TK = values_TK.cumsum(-1, dtype=torch.float64)
    mass_T1 = sums_TK.gather(-1, (top_k_T1 - 1).clamp(min=0))
    mass_T1 = mass_T1.where(top_k_T1 > 0, probabilities_TV.sum(-1, keepdim=True, dtype=torch.float64))
    wanted_T1 = (top_p_T1 * mass_T1).where(top_p_T1 < 1, math.inf)
    kept_TK = sums_TK - values_TK < wanted_T1
    kept_TK &= (torch.arange(values_TK.shape[1], device=top_k_T1.device) < top_k_T1) | (top_k_T1 == 0)
    count_T1 = kept_TK.sum(-1, keepdim=True)
    unfinished_T1 = (count_T1 == values_TK.shape[1]) & (count_T1 < size)
    last_T1 = values_TK.gather(-1, count_T1 - 1).where(~unfinished_T1, 0)
    _drop_below(probabilities_TV, last_T1)
    if (values_TK.gather(-1, count_T1.clamp(max=values_TK.shape[1] - 1)) == last_T1).any():
        # Others are as likely as the last one to keep.
        ties_TV = probabilities_TV == last_T1
        ties_T1 = count_T1 - (values_TK > last_T1).sum(-1, keepdim=True)
        probabilities_TV.masked_fill_(ties_TV & (ties_TV.cumsum(-1) > ties_T1), 0)
    if unfinished_T1.any():
        rows = unfinished_T1[:, 0]
        rest_TV = probabilities_TV[rows]
        _truncate(rest_TV, top_k_T1[rows], top_p_T1[rows], candidates=size)
        probabilities_TV[rows] = rest_TV


def _drop_below(probabilities_RV: Tensor, least_R1: Tensor) -> None:
    """Sets probabilities below a row's least one to 0, five times as fast on CPUs as by `masked_fill_`."""
    probabilities_RV.mul_(torch.ge(probabilities_RV, least_R1, out=torch.empty_like(probabilities_RV)))


def _largest(scores_RV: Tensor, count: int) -> Tensor:
    """[R, K]: the `count` largest scores of each row in descending order."""
    if scores_RV.device.type != "cpu":
        return scores_RV.topk(count).values
    # NumPy uses vector instructions here, which makes it up to 30 times as fast.
    start = scores_RV.shape[1] - count
    parted_RV = np.partition(scores_RV.numpy(), start, axis=-1)
    return torch.from_numpy(np.sort(parted_RV[:, start:], axis=-1)[:, ::-1].copy())


def _invert(probabilities_SV: Tensor, uniform_S1: Tensor) -> list[int]:
    """For each row the first token at which the cumulative distribution exceeds a share of its total.

    Sums up blocks before tokens, which takes a quarter of the time of one long cumulative sum.
    """
    blocks_SBK = _blocks(probabilities_SV)
    sums_SB = blocks_SBK.sum(-1, dtype=torch.float64)
    ends_SB = sums_SB.cumsum(-1)
    target_S1 = uniform_S1 * ends_SB[:, -1:]
    block_S1 = torch.searchsorted(ends_SB, target_S1, right=True)
    inside_SK = _take(blocks_SBK, block_S1).cumsum(-1, dtype=torch.float64)
    target_S1 = target_S1 - (ends_SB - sums_SB).gather(-1, block_S1)
    # Rounding must not lead out of the block, or to a token of probability 0.
    end_S1 = inside_SK[:, -1:]
    target_S1 = target_S1.clamp(min=0).minimum(torch.nextafter(end_S1, torch.zeros_like(end_S1)))
    tokens_S1: Tensor = block_S1 * blocks_SBK.shape[2] + torch.searchsorted(inside_SK, target_S1, right=True)
    return [int(token) for token in tokens_S1[:, 0].tolist()]


def _add_logprobs(sampled: list[SampledToken | SamplingFailed], logits_RV: Tensor, rows: Sequence[RowSampling]) -> None:
    """Adds log-probabilities to the tokens of the rows that ask for them."""
    tokens = {i: each for i, each in enumerate(sampled) if rows[i].params.logprobs and isinstance(each, SampledToken)}
    if not tokens:
        return
    logits_LV = _select(logits_RV, list(tokens), {})
    totals_L1 = logits_LV.logsumexp(-1, keepdim=True)
    ids_L1 = _column([token.id for token in tokens.values()], device=logits_LV.device)
    logprobs = (logits_LV.gather(-1, ids_L1) - totals_L1)[:, 0].tolist()
    # The same number for all rows, so that the order of equally likely tokens does not depend on other rows.
    top = logits_LV.topk(min(_MAX_TOP_LOGPROBS, logits_LV.shape[1]))
    top_ids, top_logprobs = top.indices.tolist(), (top.values - totals_L1).tolist()
    for position, (index, token) in enumerate(tokens.items()):
        pairs = zip(top_ids[position], top_logprobs[position], strict=True)
        most_likely = tuple(islice(pairs, rows[index].params.top_logprobs))
        sampled[index] = SampledToken(token.id, logprobs[position], most_likely)


def _blocks(scores_RV: Tensor) -> Tensor:
    """[R, V] as [R, B, K]: blocks of a power of two that divides the vocabulary."""
    return scores_RV.reshape(len(scores_RV), -1, math.gcd(scores_RV.shape[1], _BLOCK))


def _take(blocks_RBK: Tensor, block_R1: Tensor) -> Tensor:
    """[R, K]: one block of each row."""
    return blocks_RBK.take_along_dim(block_R1[:, :, None], dim=1)[:, 0]


def _column(values: list[float] | list[int], device: torch.device, dtype: torch.dtype | None = None) -> Tensor:
    """[R, 1] tensor of a value for each row."""
    return torch.tensor(values, dtype=dtype, device=device)[:, None]


def _mix(value: int) -> int:
    """SplitMix64: a 64-bit hash of an integer."""
    value = (value + 1) * 0x9E3779B97F4A7C15 & _64_BITS
    value = (value ^ value >> 30) * 0xBF58476D1CE4E5B9 & _64_BITS
    value = (value ^ value >> 27) * 0x94D049BB133111EB & _64_BITS
    return value ^ value >> 31
