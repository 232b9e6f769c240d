"""Time and memory of long prompts with and without the extractor, compared with its cost formula.

python -m bench.extractor --lengths 8192 32768

Each measurement runs in its own process. The shape is that of Qwen2-VL 2B with fewer layers; all layers cost the same,
so ratios do not depend on their number.
"""

import argparse
import os
import resource
import statistics
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from bench.machine import describe
from bench.report import command_line, write
from model_core.kernels import fast_dtype
from model_core.language.decoder import Decoder
from model_core.language.extractor import Extraction, ExtractionConfig

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TEXT_BEFORE, INSTRUCTION = 16, 64
OFF, PAPER = ExtractionConfig(), ExtractionConfig(blocks=4, keep_rate=0.7)
SWEEP = tuple(ExtractionConfig(blocks, rate) for blocks in (2, 4) for rate in (0.9, 0.7, 0.5))
DECODED = 12
# From this length on, tensors are so large that the allocator maps each one separately anyway.
EXACT_FROM = 16_384
# From the Lyra paper's table on the extractor: 4 blocks, keep rate 0.7, 2^15 tokens, 28 layers, on a GPU.
PUBLISHED = {
    "length": 32768,
    "prefill_seconds": [2.99, 1.23],
    "tokens_per_second": [16.6, 25.3],
    "memory_gb": [60, 24],
}


@dataclass(frozen=True, slots=True)
class Case:
    """A prompt of `length` positions and an extractor configuration."""

    length: int
    extraction: ExtractionConfig
    layers: int
    device: str


@dataclass(frozen=True, slots=True)
class Measured:
    """Results of a case. The peak is the memory of the prefill's activations and cache, without the weights."""

    prefill_seconds: float
    token_seconds: float
    cache_mib: float
    peak_mib: float


def shape(layers: int) -> Decoder.Config:
    """Qwen2-VL 2B with `layers` of its 28 layers and a tiny vocabulary."""
    return Decoder.Config(
        vocabulary=1000, width=1536, layers=layers, heads=12, key_value_heads=2, feed_forward=8960, context=1 << 16,
        rope_base=1e6, norm_epsilon=1e-6, qkv_bias=True, rope_sections=(16, 24, 24),
    )  # fmt: skip


def work(case: Case) -> float:
    """Multiply-adds of the prefill by the formula: linear layers in the positions, attention in their square."""
    config = shape(case.layers)
    heads = config.width + 2 * config.key_value_heads * config.head_width
    linear = config.width * (heads + config.width + 3 * config.feed_forward)
    return sum(linear * n + config.width * n * n for n in positions(case))


def positions(case: Case) -> Iterator[int]:
    """Number of positions in each layer."""
    context = case.length - TEXT_BEFORE - INSTRUCTION
    ends = case.extraction.block_ends(case.layers) if case.extraction.drops else []
    for layer in range(case.layers):
        yield context + TEXT_BEFORE + INSTRUCTION
        context = case.extraction.kept(context) if layer in ends else context


def measure(case: Case) -> Measured:
    """Runs in a new process, whose peak memory is that of this case."""
    dtype = fast_dtype() if case.device == "cpu" else torch.bfloat16
    with torch.device(case.device), torch.inference_mode():
        decoder = shape(case.layers).build().eval().to(dtype)
        prompt = torch.randn(1, case.length, decoder.config.width, dtype=dtype)
        where = torch.arange(case.length)
        context = (where >= TEXT_BEFORE) & (where < case.length - INSTRUCTION)
        step = torch.randn(1, 1, decoder.config.width, dtype=dtype)
        decoder(prompt[:, :64], decoder.new_cache())  # warm-up
        before = peak_bytes(case.device, current=True)
        cache = decoder.new_cache(DECODED)
        extraction = Extraction(case.extraction, [context], [where >= case.length - INSTRUCTION])
        started = now(case.device)
        decoder(prompt, cache, extraction=extraction if case.extraction.drops else None)
        prefill = now(case.device) - started
        peak = peak_bytes(case.device) - before
        tokens = [timed_step(decoder, step, cache, case.device) for _ in range(DECODED)]
    return Measured(prefill, statistics.median(tokens), cache.nbytes / 2**20, peak / 2**20)


def timed_step(decoder: Decoder, step: Tensor, cache: Any, device: str) -> float:
    started = now(device)
    decoder(step, cache)
    return now(device) - started


def now(device: str) -> float:
    if device != "cpu":
        torch.cuda.synchronize()
    return time.perf_counter()


def peak_bytes(device: str, current: bool = False) -> int:
    """Peak memory of this process so far, or its current memory."""
    if device != "cpu":
        return torch.cuda.memory_allocated() if current else torch.cuda.max_memory_allocated()
    if current:
        return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def compare(length: int, sweep: tuple[ExtractionConfig, ...], options: argparse.Namespace) -> list[dict[str, Any]]:
    """Each configuration, the same prompt without extractor, and decoding with an empty cache as a baseline."""
    cases = [
        Case(TEXT_BEFORE + INSTRUCTION + 1, OFF, options.layers, options.device),
        *(Case(length, extraction, options.layers, options.device) for extraction in (OFF, *sweep)),
    ]
    runs: dict[Case, list[Measured]] = {case: [] for case in cases}
    # In turn, so that other load on the machine affects all of them.
    for case in cases * options.repeats:
        runs[case].append(in_process_of_its_own(case))
    medians = {case: middle(measured) for case, measured in runs.items()}
    if length < EXACT_FROM:
        # Larger tensors are then mapped separately and returned at once: slower, but exact memory.
        os.environ["MALLOC_MMAP_THRESHOLD_"] = str(1 << 20)
        medians = {case: replace(one, peak_mib=in_process_of_its_own(case).peak_mib) for case, one in medians.items()}
        del os.environ["MALLOC_MMAP_THRESHOLD_"]
    short, plain, *dropped = (medians[case] for case in cases)
    return [_row(case, one, cases[1], plain, short) for case, one in zip(cases[2:], dropped, strict=True)]


def in_process_of_its_own(case: Case) -> Measured:
    with ProcessPoolExecutor(1, get_context("spawn")) as alone:
        return alone.submit(measure, case).result()


def _row(case: Case, dropped: Measured, plain_case: Case, plain: Measured, short: Measured) -> dict[str, Any]:
    formula_work = work(case) / work(plain_case)
    formula_cache = sum(positions(case)) / sum(positions(plain_case))
    shares = {
        "prefill": dropped.prefill_seconds / plain.prefill_seconds,
        "prefill_formula": formula_work,
        "prefill_over_formula": dropped.prefill_seconds / plain.prefill_seconds / formula_work,
        "cache": dropped.cache_mib / plain.cache_mib,
        "cache_formula": formula_cache,
        "cache_over_formula": dropped.cache_mib / plain.cache_mib / formula_cache,
        "peak": dropped.peak_mib / plain.peak_mib,
        "token": dropped.token_seconds / plain.token_seconds,
        "token_beyond_short": (dropped.token_seconds - short.token_seconds)
        / (plain.token_seconds - short.token_seconds),
    }
    return {
        "length": case.length,
        **asdict(case.extraction),
        "without": asdict(plain),
        "with": asdict(dropped),
        "short_token_seconds": short.token_seconds,
        "shares": {name: round(share, 4) for name, share in shares.items()},
        "gigaflops_per_second": round(2 * work(plain_case) / plain.prefill_seconds / 1e9, 1),
    }


def middle(measured: list[Measured]) -> Measured:
    """Median of each figure."""
    rows = [asdict(one) for one in measured]
    return Measured(**{name: statistics.median(row[name] for row in rows) for name in rows[0]})


def plot(report: dict[str, Any]) -> "Figure":
    """Measured ratios over those of the formula; on the diagonal, the extractor itself costs nothing."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 5), layout="constrained")
    axes = figure.subplots(1, 2)
    for axis, kind in zip(axes, ("prefill", "cache"), strict=True):
        for index, length in enumerate(sorted({row["length"] for row in report["cases"]})):
            rows = [row for row in report["cases"] if row["length"] == length]
            shares = [(row["shares"][f"{kind}_formula"], row["shares"][kind]) for row in rows]
            axis.plot(*zip(*shares, strict=True), "o", color=f"C{index}", label=f"{length:,} tokens")
            for row, place in zip(rows, shares, strict=True):
                axis.annotate(f"{row['blocks']} blocks, {row['keep_rate']}", place, fontsize=7, rotation=-30)
        axis.plot([0, 1], [0, 1], color="grey", linewidth=0.8)
        axis.set_xlabel("share by the formula")
        axis.set_ylabel(f"measured share, {'prefill time' if kind == 'prefill' else 'key-value memory'}")
        axis.legend()
    machine = report["machine"]
    figure.suptitle(
        f"Qwen2-VL 2B's shape, {report['layers']} layers, {machine['cores']} cores of {machine['processor']}"
    )
    return figure


def main() -> None:
    parser = command_line("extractor", __doc__)
    parser.add_argument("--lengths", type=int, nargs="+", default=[8192, 32768], help="prompt lengths in tokens")
    parser.add_argument("--layers", type=int, default=4, help="layers, of 28 (default 4)")
    parser.add_argument("--repeats", type=int, default=3, help="measurements of each case (default 3)")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    options = parser.parse_args()
    report: dict[str, Any] = {"layers": options.layers, "repeats": options.repeats, "machine": describe()}
    report |= {"published": PUBLISHED, "cases": []}
    for length in options.lengths:
        # The whole sweep for short prompts, only the published configuration for long ones.
        rows = compare(length, SWEEP if length == min(options.lengths) else (PAPER,), options)
        report["cases"] += rows
        for row in rows:
            print(f"{length} tokens, {row['blocks']} blocks, keep {row['keep_rate']}: {row['shares']}", flush=True)
        # After each length, as the next one may take long.
        write(report, options.out, plot)


if __name__ == "__main__":
    main()
