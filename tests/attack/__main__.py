"""python -m tests.attack: attacks a local stack, prints a table, and exits with 1 if anything broke."""

import argparse
import resource
import sys
from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from rich.table import Table

from bench.machine import describe
from bench.report import RESULTS, write
from tests.attack import kinds
from tests.attack.loopback import loopback_only
from tests.attack.plot import memory_plot
from tests.attack.registry import ATTACKS, Plan
from tests.attack.runner import Row, run
from tests.attack.target import running_target
from tests.attack.watcher import TooMuchMemory

ATTACKER_BYTES = 8 * 2**30  # limit on this process's address space; attacks need far less


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.attack", description=__doc__)
    parser.add_argument(
        "--only", action="append", metavar="NAME", help=f"kind ({', '.join(kinds.NAMES)}) or part of a title"
    )
    parser.add_argument("--quick", action="store_true", help="fewer tries, as in `make test`")
    parser.add_argument("--minutes", type=float, default=10.0, help="duration of the mixed load (default 10)")
    parser.add_argument("--seed", type=int, default=0, help="random seed (default 0)")
    parser.add_argument("--out", type=Path, default=RESULTS / "attack.json", help="file for the table")
    options = parser.parse_args()
    plan = Plan(quick=options.quick, seed=options.seed, minutes=options.minutes)
    attacks = [
        each for each in ATTACKS if (each.quick or not plan.quick) and _selected(options.only, each.kind, each.what)
    ]
    if not attacks:
        parser.error(f"no attack is named {' or '.join(options.only)}")
    machine, rows, console = describe(), list[Row](), Console(stderr=True)
    with running_target() as target:
        resource.setrlimit(
            resource.RLIMIT_AS, (ATTACKER_BYTES, resource.RLIM_INFINITY)
        )  # set after the stack has started, which does not inherit it
        with loopback_only():
            try:
                for row in run(target, attacks, plan):
                    rows.append(row)
                    _print_row(console, row)
            except TooMuchMemory as error:
                console.print(f"[red]stopped:[/red] {error}")
                rows.append(_stopped_row(attacks[len(rows)].kind, attacks[len(rows)].what, str(error)))
    Console(width=None if sys.stdout.isatty() else 200).print(_table(rows))
    report = {"preset": "tiny", "machine": machine, "plan": asdict(plan), "rows": [asdict(row) for row in rows]}
    sampled = any(row.samples for row in rows)
    write(report, options.out, memory_plot if sampled else None)
    broken = [row for row in rows if not row.held]
    print(f"{len(rows)} attacks, {sum(row.tried for row in rows):,} tries, {len(broken)} broke something")
    return 1 if broken else 0


def _selected(only: list[str] | None, kind: str, what: str) -> bool:
    return not only or any(name == kind or name in what for name in only)


def _stopped_row(kind: str, what: str, why: str) -> Row:
    return Row(kind, what, 0, "", "", False, 0.0, 0.0, "", 0.0, 0.0, 0, [], [why])


def _print_row(console: Console, row: Row) -> None:
    mark = "[green]held[/green]  " if row.held else "[red]broken[/red]"
    console.print(f"{mark} {row.kind}: {row.what} ({row.seconds:g} s)", highlight=False)
    for each in row.wrong:
        console.print(f"       {each}", highlight=False, markup=False)


def _table(rows: list[Row]) -> Table:
    table = Table("kind", "tried", "how often", "expected", "came back", "/healthz", "bystander", "memory", "")
    for row in rows:
        table.add_row(
            row.kind,
            row.what,
            f"{row.tried:,}",
            row.expected,
            row.came_back,
            f"{row.health_seconds:.2f} s",
            row.bystander,
            f"+{row.growth_mib:.0f} MiB",
            "[green]held[/green]" if row.held else "[red]broken[/red]",
        )
    return table


if __name__ == "__main__":
    sys.exit(main())
