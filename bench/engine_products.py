"""Linear products of a decoder's layers by number of rows, beside what memory and arithmetic of the machine allow.

    python -m bench.engine_products
    ATEN_CPU_CAPABILITY=avx2 ONEDNN_MAX_CPU_ISA=AVX2 python -m bench.engine_products --out /tmp/avx2.json

The shapes are those of SmolLM2-135M, preset nano's language model. As in a decoder, no product finds its weights in the
cache: each takes turns over as many copies as exceed it. Times are the shortest of many, as everything else that the
machine does only adds to them.
"""

import time
from collections.abc import Callable, Sequence
from functools import partial
from itertools import cycle
from typing import Any

import torch
from torch import Tensor

from bench.machine import describe
from bench.report import command_line, write
from model_core.engine.packed_weights import Int4Product, Int8Product, PackedProduct, PlainProduct, Product, can_pack
from model_core.engine.projections import AdapterMix, JoinedProjection
from model_core.kernels import fast_dtype, instructions
from model_core.language.lora import AdaptedLinear, LoraConfig, LowRank

# Outputs and inputs of the layers that run as one product.
SHAPES = {
    "q, k, v": (960, 576),
    "o": (576, 576),
    "gate, up": (3072, 576),
    "down": (576, 1536),
    "output": (49152, 576),
}
ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 512)
# Rows that the output layer meets: one for each sequence.
MAX_OUTPUT_ROWS = 64
# Larger than the third-level cache of the machines that serve nano.
COLD_BYTES = 64 << 20
ADAPTERS, RANK, LAYERS = 4, 16, 30

KERNELS: dict[str, Callable[[Tensor], Product]] = {
    "plain": PlainProduct,
    "packed": PackedProduct,
    "int8": Int8Product,
    "int4": Int4Product,
}
BYTES_PER_WEIGHT = {"int8": 1.0, "int4": 0.5 + 4 / 32}


def shortest(calls: dict[str, Callable[[], Any]], rounds: int, seconds: float = 0.004) -> dict[str, float]:
    """Shortest time of each call in microseconds; all take turns, each for `seconds` at a time."""
    best = dict.fromkeys(calls, float("inf"))
    for _ in range(rounds):
        for name, call in calls.items():
            started = time.perf_counter()
            call()
            once = time.perf_counter() - started
            repeats = max(1, min(50, int(seconds / once)))
            started = time.perf_counter()
            for _ in range(repeats):
                call()
            best[name] = min(best[name], once, (time.perf_counter() - started) / repeats)
    return {name: round(best[name] * 1e6, 1) for name in calls}


def in_turn(products: Sequence[Product], x_NI: Tensor) -> Callable[[], Tensor]:
    """Multiplies by the next product's weights with each call."""
    turns = cycle(products)
    return lambda: next(turns)(x_NI)


def measure_shape(name: str, dtype: torch.dtype, rounds: int) -> list[dict[str, Any]]:
    """Times, bandwidths and arithmetic rates of all kernels for one shape, by number of rows."""
    outputs, inputs = SHAPES[name]
    weight_OI = (torch.randn(outputs, inputs) / inputs**0.5).to(dtype)
    kernels = {kernel: make for kernel, make in KERNELS.items() if kernel != "packed" or can_pack(weight_OI)}
    kernel_bytes = {kernel: weight_OI.numel() * BYTES_PER_WEIGHT.get(kernel, dtype.itemsize) for kernel in kernels}
    products = {
        kernel: [make(weight_OI.clone()) for _ in range(1 + int(COLD_BYTES / kernel_bytes[kernel]))]
        for kernel, make in kernels.items()
    }
    cases = []
    for rows in ROWS if name != "output" else [rows for rows in ROWS if rows <= MAX_OUTPUT_ROWS]:
        x_NI = torch.randn(rows, inputs).to(dtype)
        times = shortest({kernel: in_turn(products[kernel], x_NI) for kernel in kernels}, rounds)
        cases.append(
            {
                "shape": name,
                "rows": rows,
                "microseconds": times,
                "gb_per_second": {kernel: round(kernel_bytes[kernel] / times[kernel] / 1e3, 1) for kernel in kernels},
                "gflop_per_second": {
                    kernel: round(2 * rows * weight_OI.numel() / times[kernel] / 1e3) for kernel in kernels
                },
            }
        )
        print(f"{name:9} {rows:4} rows  " + "  ".join(f"{k} {v:8.1f} us" for k, v in times.items()), flush=True)
    return cases


def floors(dtype: torch.dtype) -> dict[str, float]:
    """The bandwidth of reading memory and the arithmetic rate of a large product, as measured here."""
    block, square = torch.ones(COLD_BYTES), torch.randn(2048, 2048).to(dtype)
    packed = PackedProduct(square) if can_pack(square) else PlainProduct(square)
    times = shortest({"read": block.sum, "multiply": lambda: packed(square)}, 10)
    return {
        "gb_per_second": round(block.nbytes / times["read"] / 1e3, 1),
        "gflop_per_second": round(2 * 2048**3 / times["multiply"] / 1e3),
    }


def measure_adapters(dtype: torch.dtype, rounds: int, batch: int = 16) -> dict[str, float]:
    """Milliseconds of a decoder's products for rows without adapters, with one adapter, and with several."""
    names = [f"adapter {index}" for index in range(ADAPTERS)]
    layers = [joined_layer(names, dtype) for _ in range(LAYERS)]
    mixes: dict[str, list[str | None]] = {
        "base": [None] * batch,
        "one adapter": [names[0]] * batch,
        "one adapter in half of the rows": [names[0], None] * (batch // 2),
        f"{ADAPTERS} adapters": [names[row % ADAPTERS] for row in range(batch)],
    }
    inputs = {width: torch.randn(batch, width).to(dtype) for width in (576, 1536)}

    def step(rows: list[str | None]) -> None:
        mix = AdapterMix.of(rows, "cpu")
        for layer in layers:
            for projection, width in layer:
                projection(inputs[width], mix)

    times = shortest({name: partial(step, rows) for name, rows in mixes.items()}, rounds)
    return {name: round(microseconds / 1000, 2) for name, microseconds in times.items()}


def joined_layer(adapters: Sequence[str], dtype: torch.dtype) -> list[tuple[JoinedProjection, int]]:
    """The four products of a layer, whose seven projections all have every adapter."""
    joined = []
    for widths, inputs in (((576, 192, 192), 576), ((576,), 576), ((1536, 1536), 576), ((576,), 1536)):
        parts = [AdaptedLinear(inputs, outputs, bias=False).to(dtype) for outputs in widths]
        for part in parts:
            for name in adapters:
                part.add_adapter(name, LoraConfig(rank=RANK, alpha=2 * RANK))
                update = part.adapters[name].to(dtype)
                assert isinstance(update, LowRank)
                torch.nn.init.normal_(update.lora_B.weight)
        joined.append((JoinedProjection(parts, float_weights="packed"), inputs))
    return joined


def main() -> None:
    parser = command_line("engine_products", __doc__)
    parser.add_argument("--threads", type=int, default=2, help="threads of a product (default 2)")
    parser.add_argument("--rounds", type=int, default=15, help="turns of each kernel (default 15)")
    parser.add_argument("--shapes", nargs="*", default=list(SHAPES), choices=list(SHAPES), help="all by default")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    dtype = fast_dtype()
    with torch.inference_mode():
        report: dict[str, Any] = {
            "machine": describe(),
            "instructions": instructions(),
            "threads": options.threads,
            "dtype": str(dtype).removeprefix("torch."),
            "floors": floors(dtype),
            "adapters_ms": measure_adapters(dtype, options.rounds),
        }
        print(report["floors"], report["adapters_ms"], flush=True)
        report["cases"] = [case for name in options.shapes for case in measure_shape(name, dtype, options.rounds)]
    write(report, options.out)


if __name__ == "__main__":
    main()
