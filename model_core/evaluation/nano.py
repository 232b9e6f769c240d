"""Measures nano's whole card: its parts in one process or in several, and one table of all of them."""

import json
import multiprocessing
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch

from model_core.evaluation.card import Desk, Figure, Part, choose_parts, reader_of
from model_core.evaluation.manifest import Result
from model_core.evaluation.preset_subject import PresetSubject
from model_core.evaluation.report import Report, Table, write_report
from model_core.presets import SHIPPED, PartsFolder

Show = Callable[[str, int, int], None]
"""Called with what is counted, how much of it is done, and how much there is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What is measured, and where the results go.

    Attributes:
        data: Folder of the test sets.
        out: Folder for everything: `result.json`, `result.md`, and a folder for each part.
        preset: Whose card it is.
        home: Where weights are; None for the default.
        parts: Folder of nano's trained parts.
        only: Names of parts, or their beginnings; all where empty.
        workers: Processes at a time for parts that are not timed.
        command: What was called.
    """

    data: Path
    out: Path
    preset: str = "nano"
    home: Path | None = None
    parts: PartsFolder = SHIPPED
    only: tuple[str, ...] = ()
    workers: int = 1
    command: tuple[str, ...] = ("lyra", "eval", "nano")


def evaluate_nano(plan: Plan, show: Show) -> Report:
    """Measures every part, writes each one's folder, and joins their figures.

    Raises:
        InvalidInput: no such part, or a part's data is missing or broken; finished parts keep their results.
        WeightsMissing, SpeakerMissing.
    """
    start = time.perf_counter()
    parts = choose_parts(plan.only)
    shared = [part for part in parts if not part.timed]
    if plan.workers > 1 and len(shared) > 1:
        _in_processes(plan, shared, show)
    else:
        for part in shared:
            _measure(plan, part.name, show)
    for part in parts:
        if part.timed:
            _measure(plan, part.name, show)
    results = {part.name: json.loads((_folder(plan, part.name) / "result.json").read_text()) for part in parts}
    return _join(plan, parts, results, time.perf_counter() - start)


def _in_processes(plan: Plan, parts: Sequence[Part], show: Show) -> None:
    threads = max((os.cpu_count() or 1) // plan.workers, 1)
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(plan.workers, context, initializer=torch.set_num_threads, initargs=(threads,)) as pool:
        running: set[Future[None]] = {pool.submit(_measure, plan, part.name, None) for part in parts}
        show("parts", 0, len(parts))
        try:
            while running:
                done, running = wait(running, return_when=FIRST_COMPLETED)
                for future in done:
                    future.result()
                show("parts", len(parts) - len(running), len(parts))
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


@cache
def _subject(preset: str, home: Path | None, parts: PartsFolder) -> PresetSubject:
    """One a process."""
    return PresetSubject(preset, home, parts=parts)


def _measure(plan: Plan, name: str, show: Show | None) -> None:
    (part,) = (part for part in choose_parts(()) if part.name == name)
    subject = _subject(plan.preset, plan.home, plan.parts)
    folder = _folder(plan, name)
    desk = Desk(
        subject=subject,
        data=plan.data,
        folder=folder,
        home=plan.home,
        adapters=subject.language_model.adapters,
        reader=reader_of(plan.preset),
        show=lambda done, total: show(name, done, total) if show else None,
    )
    write_report(folder, part.run(desk, part.options), plan.command)


def _folder(plan: Plan, name: str) -> Path:
    return plan.out / "parts" / name


def _join(plan: Plan, parts: Sequence[Part], results: dict[str, dict[str, Any]], seconds: float) -> Report:
    lines = [_line(figure, results[part.name]) | {"part": part.name} for part in parts for figure in part.figures]
    promised = [line for line in lines if line["reached"] is not None]
    reached = sum(line["reached"] for line in promised)
    cells = tuple(
        (
            line["what"],
            line["shown"],
            line["target"],
            "" if line["reached"] is None else "yes" if line["reached"] else "no",
        )
        for line in lines
    )
    card = Table(title="Measured, and the target", headings=("what", "measured", "target", "reached"), rows=cells)
    details = {"targets": len(promised), "reached": reached, "seconds": round(seconds, 1), "figures": lines}
    value = round(reached / len(promised), 4) if promised else 1.0
    subject = {"preset": plan.preset}
    result = Result(metric="card", value=value, count=len(lines), subject=subject, details=details)
    below = [Table(**_table(each, part.name)) for part in parts for each in results[part.name]["tables"]]
    return Report(result=result, tables=(card, *below))


def _line(figure: Figure, result: dict[str, Any]) -> dict[str, Any]:
    value = _find(result, figure.at)
    at_least = _find(result, figure.at_least_of) if figure.at_least_of else figure.at_least
    reached = None
    if value is None:
        reached = None if at_least is None and figure.at_most is None else False
    elif at_least is not None:
        reached = value >= at_least
    elif figure.at_most is not None:
        reached = value <= figure.at_most
    bounds = (("at least", at_least), ("at most", figure.at_most))
    target = " ".join(f"{word} {_shown(bound, figure)}" for word, bound in bounds if bound is not None)
    return {
        "what": figure.what,
        "value": value,
        "shown": "not measured" if value is None else _shown(value, figure),
        "target": target,
        "reached": reached,
    }


def _find(result: dict[str, Any], keys: tuple[str, ...]) -> float | None:
    found: Any = result
    for key in keys:
        found = found.get(key) if isinstance(found, dict) else None
    return None if found is None else float(found)


def _shown(value: float, figure: Figure) -> str:
    return f"{100 * value:.1f} %" if figure.percent else f"{value:g}"


def _table(table: dict[str, Any], part: str) -> dict[str, Any]:
    rows = tuple(tuple(row) for row in table["rows"])
    return {"title": f"{part}: {table['title']}", "headings": tuple(table["headings"]), "rows": rows}
