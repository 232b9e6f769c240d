"""transformers as a peer: nano's converted folder in the dtype that this processor multiplies fastest."""

import logging
import os
import time
from collections.abc import Sequence
from typing import Any

import torch

from model_core.kernels import fast_dtype
from model_core.presets import lyra_home

Ids = Sequence[int]

# Continuous batching with room for what is asked here; its defaults are measured beside it.
_SIZED = {"num_blocks": 64, "max_batch_tokens": 512, "allow_block_sharing": False}


class Transformers:
    """SmolLM2 in transformers.

    Args:
        threads: CPU threads, of the whole process.
        stop_ids: Tokens that end an answer.
    """

    def __init__(self, threads: int, stop_ids: Sequence[int]) -> None:
        os.environ["HF_HUB_OFFLINE"] = "1"
        import transformers

        self._library: Any = transformers  # its types fit together less well than its parts
        self._library.logging.disable_progress_bar()
        logging.getLogger("ContinuousBatchingLogger").setLevel(logging.ERROR)
        torch.set_num_threads(threads)
        folder = lyra_home() / "weights" / "nano" / "language"
        self._model = self._library.AutoModelForCausalLM.from_pretrained(
            folder, dtype=fast_dtype(), attn_implementation="sdpa"
        ).eval()
        self._stop_ids = list(stop_ids)

    def answer(self, ids: Ids, tokens: int) -> list[float]:
        """Seconds from the request until each token of an answer, by `generate`."""
        times = _Times()
        self._model.generate(torch.tensor([ids]), generation_config=self._config(tokens), streamer=times)
        return times.seconds

    def answer_padded(self, batch: Sequence[Ids], tokens: int) -> int:
        """Answers a batch by `generate` with padding on the left. Returns the number of tokens."""
        longest, pad = max(map(len, batch)), self._stop_ids[0]
        inputs = torch.tensor([[pad] * (longest - len(ids)) + list(ids) for ids in batch])
        mask = torch.tensor([[0] * (longest - len(ids)) + [1] * len(ids) for ids in batch])
        found = self._model.generate(inputs, attention_mask=mask, generation_config=self._config(tokens))
        stops = torch.isin(found[:, longest:], torch.tensor(self._stop_ids))
        return int((stops.cumsum(1) == 0).sum())

    def answer_continuously(self, batch: Sequence[Ids], tokens: int, *, sized: bool) -> int:
        """Answers requests by `generate_batch`, its continuous batching. Returns the number of tokens.

        Its cache is made once and kept, with `sized` for requests like these. Making it is part of the first call only.
        """
        found = self._model.generate_batch(
            [list(ids) for ids in batch],
            generation_config=self._config(tokens),
            continuous_batching_config=self._library.ContinuousBatchingConfig(**(_SIZED if sized else {})),
            persistent_manager=True,
        )
        stops = set(self._stop_ids)
        return sum(token not in stops for each in found.values() for token in each.generated_tokens)

    def end_continuous_batching(self) -> None:
        """Frees its cache, so that it is made anew with other settings."""
        self._model.destroy_cached_continuous_batching_manager()

    def _config(self, tokens: int) -> Any:
        return self._library.GenerationConfig(
            do_sample=False, max_new_tokens=tokens, eos_token_id=self._stop_ids, pad_token_id=self._stop_ids[0]
        )


class _Times:
    """Takes the time of each token, as a streamer; the prompt comes first."""

    def __init__(self) -> None:
        self._start = time.perf_counter()
        self._prompt = True
        self.seconds: list[float] = []

    def put(self, value: torch.Tensor) -> None:
        if not self._prompt:
            self.seconds.append(time.perf_counter() - self._start)
        self._prompt = False

    def end(self) -> None:
        pass
