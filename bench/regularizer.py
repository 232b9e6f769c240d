"""Time of soft-DTW, forward and backward: anti-diagonals in PyTorch, compared with plain loops over cells in NumPy.

All compute the same costs in the same run, and their values and gradients must agree:

- `lyra`: model_core.training.regularizer.soft_dtw and its backward pass.
- `numpy, batch at once`: a double loop over cells, each step for the whole batch.
- `numpy, one by one`: a double loop over cells for each matrix.

    python -m bench.regularizer --repeats 20
"""

import statistics
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray

from bench.machine import describe
from bench.report import command_line, write
from model_core.training.regularizer import contrastive_cost, soft_dtw

BATCH, WIDTH, GAMMA = 16, 64, 0.1
SIZES = ((75, 30), (150, 60), (300, 120))
LOOP_REPEATS = 3

Array = NDArray[np.float64]
Outcome = tuple[Array, Array]


def costs(rows: int, columns: int) -> torch.Tensor:
    """[BATCH, rows, columns] float32: the contrastive cost of random tokens."""
    generator = torch.Generator().manual_seed(rows)
    speech, text = (torch.randn(BATCH, size, WIDTH, generator=generator) / WIDTH**0.25 for size in (rows, columns))
    return contrastive_cost(speech, text, [columns] * BATCH)


def lyra(cost: torch.Tensor) -> Outcome:
    """Values [B] and the gradient of their sum [B, L, S]."""
    cost = cost.detach().requires_grad_()
    value = soft_dtw(cost, [cost.shape[1]] * len(cost), [cost.shape[2]] * len(cost), GAMMA)
    (gradient,) = torch.autograd.grad(value.sum(), cost)
    return value.detach().double().cpu().numpy(), gradient.double().cpu().numpy()


def batch_at_once(cost: torch.Tensor) -> Outcome:
    """The recursions of soft-DTW cell by cell, for the whole batch."""
    values, gradient = _double_loop(np.ascontiguousarray(cost.double().permute(1, 2, 0).numpy()))
    return values, gradient.transpose(2, 0, 1)


def one_by_one(cost: torch.Tensor) -> Outcome:
    """The recursions of soft-DTW cell by cell, one matrix after the other."""
    pairs = [_double_loop(matrix) for matrix in cost.double().numpy()]
    return np.stack([value for value, _ in pairs]), np.stack([gradient for _, gradient in pairs])


WAYS: dict[str, Callable[[torch.Tensor], Outcome]] = {
    "lyra": lyra,
    "numpy, batch at once": batch_at_once,
    "numpy, one by one": one_by_one,
}


def measure(rows: int, columns: int, repeats: int) -> dict[str, Any]:
    """Seconds of each way for one size, measured in turn."""
    cost = costs(rows, columns)
    wanted = batch_at_once(cost)
    errors = {way: _largest_error(run(cost), wanted) for way, run in WAYS.items()}
    if not max(errors.values()) <= 1e-4:
        raise SystemExit(f"{rows} x {columns}: the results differ: {errors}")
    seconds: dict[str, list[float]] = {way: [] for way in WAYS}
    for repeat in range(repeats):
        for way, run in WAYS.items():
            if way == "lyra" or repeat < LOOP_REPEATS:
                start = time.perf_counter()
                run(cost)
                seconds[way].append(round(time.perf_counter() - start, 5))
        print(f"{rows} x {columns}: {repeat + 1} of {repeats}", file=sys.stderr)
    medians = {way: statistics.median(times) for way, times in seconds.items()}
    return {
        "rows": rows,
        "columns": columns,
        "largest_error": errors["lyra"],
        "seconds": {way: {"median": medians[way], "best": min(times), "all": times} for way, times in seconds.items()},
        "times_as_fast": {way: round(medians[way] / medians["lyra"], 1) for way in WAYS if way != "lyra"},
    }


def plot(report: dict[str, Any]) -> Figure:
    """Medians over the number of cells as lines, measurements as dots."""
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axis = figure.subplots()
    cells = [size["rows"] * size["columns"] for size in report["sizes"]]
    for number, way in enumerate(WAYS):
        medians = [size["seconds"][way]["median"] for size in report["sizes"]]
        axis.plot(cells, medians, color=f"C{number}", label=way)
        for x, size in zip(cells, report["sizes"], strict=True):
            times = size["seconds"][way]
            axis.plot([x] * len(times["all"]), times["all"], ".", color=f"C{number}", markersize=3)
            label = f"{times['median'] * 1000:.0f} ms"
            axis.annotate(label, (x, times["median"]), xytext=(0, 4), textcoords="offset points", fontsize=8)
    axis.set(xscale="log", yscale="log", ylabel="seconds, forward and backward")
    axis.set_xticks(cells, [f"{size['rows']} x {size['columns']}" for size in report["sizes"]])
    axis.minorticks_off()
    axis.margins(x=0.12)
    axis.set_xlabel(f"speech x text tokens, batch {report['batch']}")
    axis.legend()
    machine = report["machine"]
    figure.suptitle(f"soft-DTW, {report['threads']} of {machine['cores']} cores of {machine['processor']}", fontsize=9)
    return figure


def main() -> None:
    parser = command_line("regularizer", __doc__)
    parser.add_argument(
        "--repeats", type=int, default=20, help=f"runs of lyra (default 20); the loops run {LOOP_REPEATS} times"
    )
    options = parser.parse_args()
    machine = describe()
    machine["libraries"]["numpy"] = version("numpy")
    report: dict[str, Any] = {
        "batch": BATCH,
        "gamma": GAMMA,
        "repeats": options.repeats,
        "loop_repeats": LOOP_REPEATS,
        "threads": torch.get_num_threads(),
        "machine": machine,
        "sizes": [measure(rows, columns, options.repeats) for rows, columns in SIZES],
    }
    write(report, options.out, plot)
    for size in report["sizes"]:
        median, ratios = size["seconds"]["lyra"]["median"], size["times_as_fast"]
        faster = ", ".join(f"{ratio:.0f} x as fast as {way}" for way, ratio in ratios.items())
        print(f"{size['rows']} x {size['columns']}: {median * 1000:.1f} ms, {faster}")


def _double_loop(cost: Array) -> Outcome:
    """[L, S] or [L, S, B] -> values [] or [B], and their gradient in the shape of the cost."""
    rows, columns = cost.shape[:2]
    gain = np.pad(cost / -GAMMA, [(1, 1), (1, 1), *[(0, 0)] * (cost.ndim - 2)])
    total = np.full_like(gain, -np.inf)
    total[0, 0] = 0.0
    for i in range(1, rows + 1):
        for j in range(1, columns + 1):
            sides = np.logaddexp(total[i - 1, j], total[i, j - 1])
            total[i, j] = gain[i, j] + np.logaddexp(sides, total[i - 1, j - 1])
    value = total[rows, columns].copy()
    total[rows + 1], total[:, columns + 1], total[rows + 1, columns + 1] = np.inf, np.inf, value
    share = np.zeros_like(gain)
    share[rows + 1, columns + 1] = 1.0
    for i in range(rows, 0, -1):
        for j in range(columns, 0, -1):
            for cell in ((i + 1, j), (i, j + 1), (i + 1, j + 1)):
                share[i, j] += share[cell] * np.exp(total[i, j] + gain[cell] - total[cell])
    return -GAMMA * value, share[1:-1, 1:-1]


def _largest_error(found: Outcome, wanted: Outcome) -> float:
    """Largest relative error, or absolute error for values under 1."""
    pairs = zip(found, wanted, strict=True)
    return max(float((np.abs(a - b) / np.maximum(np.abs(b), 1)).max()) for a, b in pairs)


if __name__ == "__main__":
    main()
