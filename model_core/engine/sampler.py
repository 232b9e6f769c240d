"""Samples the next token from logits."""

import torch
from torch import Tensor


class Sampler:
    """Greedy at temperature 0, else random over the smallest set of tokens whose probability reaches `top_p`.

    The same seed and logits give the same tokens.
    """

    def __init__(self, temperature: float, top_p: float, seed: int | None) -> None:
        self.temperature = temperature
        self.top_p = top_p
        self.generator = torch.Generator()
        if seed is None:
            self.generator.seed()
        else:
            self.generator.manual_seed(seed % 2**63)

    def sample(self, logits_V: Tensor) -> int:
        """[V] floats -> index of the token."""
        if self.temperature == 0:
            return int(logits_V.argmax())
        probabilities, order = (logits_V.float().cpu() / self.temperature).softmax(-1).sort(descending=True)
        # A token stays while the ones before it have not reached top_p, so that the likeliest always stays.
        probabilities[probabilities.cumsum(-1) - probabilities >= self.top_p] = 0
        return int(order[torch.multinomial(probabilities, 1, generator=self.generator)])
