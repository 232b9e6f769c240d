"""What the memory of this machine allows: nothing decodes faster than its weights can be read."""

import time
from typing import Any

import torch

from bench.engine.figures import summary
from bench.engine.ours import LanguageModel

_BYTES = 2**30


def measure(model: LanguageModel, threads: int, gguf_bytes: int) -> dict[str, Any]:
    """Memory bandwidth, bytes of the weights that one token needs, and the tokens a second that follow."""
    bandwidth = summary(read_bandwidth(threads) for _ in range(5))
    weights = sum(parameter.nbytes for parameter in model.decoder.parameters()) - adapter_bytes(model)
    return {
        "gigabytes_per_second": bandwidth,
        "weight_bytes": weights,
        "stored_weight_bytes": gguf_bytes,
        "tokens_per_second": round(bandwidth["max"] * 1e9 / weights, 1),
        "tokens_per_second_stored": round(bandwidth["max"] * 1e9 / gguf_bytes, 1),
    }


def read_bandwidth(threads: int) -> float:
    """Gigabytes a second at which `threads` threads sum an array that no processor cache holds."""
    torch.set_num_threads(threads)
    array = torch.ones(_BYTES // 4)
    array.sum()
    started = time.perf_counter()
    array.sum()
    return _BYTES / (time.perf_counter() - started) / 1e9


def adapter_bytes(model: LanguageModel) -> int:
    """Bytes of the resident adapters, of which a request reads one at most."""
    return sum(parameter.nbytes for name, parameter in model.decoder.named_parameters() if ".adapters." in name)
