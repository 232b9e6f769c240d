"""The engine beside the commit before it, transformers and llama.cpp, and beside itself under load.

    python -m bench.engine [--only users batch] [--before COMMIT] [--repeats 5] [--quick]

Rows, each of which can be run alone. Sides take turns in one run on the same prompts, greedily; told are medians with
their spread, and ratios beside their targets.

- `users`, `spoken`, `interference`: over HTTP, a stack of this checkout beside one of the commit `--before`, which is
  checked out into a temporary folder. Users are threads of one client. `--before ""` leaves that side out.
- `batch`, `stream`, `prefill`: in process, beside transformers in the same dtype and llama.cpp on the 4-bit file that
  nano's weights come from. llama.cpp needs node and npm; its package is fetched into `build/peers` by the first run.
- `second_question`, `turns`, `cache_memory`, `adapters`, `mechanisms`: in process, the engine beside itself. Speech
  tokens are random ones of five minutes.

Rows that are not run keep what the file of numbers had for them; each tells the machine, the commit and the day, and
how many cores other processes kept busy meanwhile: over 0.1, the figures are worth little.
"""

import json
import os
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil

from bench.engine import alone, peers, serving
from bench.engine.figures import ROOT, Figures, OtherLoad, Plan, Target, commit
from bench.engine.mechanisms import mechanisms
from bench.engine.plots import plot
from bench.machine import describe
from bench.report import RESULTS, command_line, write
from cli.weights import pull_missing_weights
from services.language_model.settings import LanguageModelSettings
from services.shared.rpc import model_service

ENGINE_BEFORE = "d6a9f5f"  # the last commit that answered one request at a time

ROWS: dict[str, Callable[[Plan], tuple[Figures, list[Target]]]] = {
    "users": serving.users,
    "batch": peers.batch,
    "stream": peers.stream,
    "prefill": peers.prefill,
    "second_question": alone.second_question,
    "turns": alone.turns,
    "interference": serving.interference,
    "cache_memory": alone.cache_memory,
    "adapters": alone.adapters,
    "spoken": serving.spoken,
    "mechanisms": mechanisms,
}


def main() -> None:
    parser = command_line("engine", __doc__)
    parser.add_argument("--only", nargs="+", choices=ROWS, default=list(ROWS), metavar="ROW", help=", ".join(ROWS))
    parser.add_argument("--before", default=ENGINE_BEFORE, help="commit to compare with (default %(default)s)")
    parser.add_argument("--repeats", type=int, default=5, help="measurements of each figure (default 5)")
    parser.add_argument("--threads", type=int, default=psutil.cpu_count(logical=False), help="default: every core")
    parser.add_argument("--quick", action="store_true", help="one measurement of each figure, into engine_quick.json")
    options = parser.parse_args()
    _run_as_a_service_does(options.threads)
    repeats = 1 if options.quick else options.repeats
    plan = Plan(repeats=repeats, threads=options.threads, before=options.before, quick=options.quick)
    out = options.out
    if options.quick and out == RESULTS / "engine.json":
        out = ROOT / "build" / "engine_quick.json"
    pull_missing_weights("nano")
    for name in options.only:
        print(f"{name}:", flush=True)
        measured, targets = _measure(ROWS[name], plan)
        _add(out, name, measured)
        for target in targets:
            print(f"  {target.line()}", flush=True)
        print(f"  other processes kept {measured['cores_busy_with_others']:.2f} cores busy", flush=True)


def _run_as_a_service_does(threads: int) -> None:
    """Starts this program anew with the variables of a model service, unless it has them: OpenMP reads them once.

    Without them idle threads spin, and the peers in this process lose most of their speed to any other process.
    """
    settings = LanguageModelSettings(threads=threads)
    before = dict(os.environ)
    model_service.prepare_process(settings)
    if os.environ != before:
        os.execv(sys.executable, [sys.executable, "-m", "bench.engine", *sys.argv[1:]])


def _measure(row: Callable[[Plan], tuple[Figures, list[Target]]], plan: Plan) -> tuple[dict[str, Any], list[Target]]:
    machine, other_load = describe(), OtherLoad()
    figures, targets = row(plan)
    measured = {
        "commit": commit(),
        "day": datetime.now(UTC).date().isoformat(),
        "machine": machine,
        "cores_busy_with_others": other_load.cores(),
        "threads": plan.threads,
        "repeats": plan.repeats,
        "targets": [target.as_json() for target in targets],
        "figures": figures,
    }
    return measured, targets


def _add(path: Path, name: str, measured: dict[str, Any]) -> None:
    """Puts a row among those that the file has, in their order, and draws the plot again."""
    rows = json.loads(path.read_text())["rows"] if path.exists() else {}
    rows[name] = measured
    write({"rows": {each: rows[each] for each in ROWS if each in rows}}, path, plot)


if __name__ == "__main__":
    main()
