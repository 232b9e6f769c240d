"""Samples the next token from logits."""

import torch
from torch import Tensor

from model_core.engine.sampling_params import SamplingParams


class Sampler:
    """Greedy at temperature 0, else random over the smallest set of tokens whose probability reaches `top_p`.

    Before that, `min_p` drops tokens that are unlikely next to the most likely one; both as in vLLM. The same seed and
    logits give the same tokens.
    """

    def __init__(self, params: SamplingParams) -> None:
        self._params = params
        self._generator = torch.Generator()
        if params.seed is None:
            self._generator.seed()
        else:
            self._generator.manual_seed(params.seed % 2**63)

    def sample(self, logits_V: Tensor) -> int:
        """[V] floats -> index of the token."""
        params = self._params
        if params.temperature == 0:
            return int(logits_V.argmax())
        probabilities, order = (logits_V.float().cpu() / params.temperature).softmax(-1).sort(descending=True)
        if params.min_p:
            probabilities[probabilities < params.min_p * probabilities[0]] = 0
            probabilities /= probabilities.sum()
        # A token stays while the ones before it have not reached top_p, so that the likeliest always stays.
        probabilities[probabilities.cumsum(-1) - probabilities >= params.top_p] = 0
        return int(order[torch.multinomial(probabilities, 1, generator=self._generator)])
