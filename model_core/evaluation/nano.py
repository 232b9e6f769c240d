"""Runs all parts of nano's card, in one process or in several, and joins their figures in one table."""

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

from model_core.evaluation.card import Figure, Part, PartContext, choose_parts, voice_of
from model_core.evaluation.manifest import Result
from model_core.evaluation.preset_subject import PresetSubject
from model_core.evaluation.report import Report, Table, write_report
from model_core.presets import SHIPPED, PartsFolder

Show = Callable[[str, int, int], None]
"""Called with the name of a step, how much of it is done, and its total."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What is evaluated, and where the results go.

    Attributes:
        data: Folder of the test sets.
        out: Folder for everything: `result.json`, `result.md`, and a folder for each part.
        preset: The preset to evaluate.
        home: Folder of weights; None for the default.
        parts: Folder of nano's trained parts.
        only: Names of parts, or prefixes of names; empty for all.
        workers: Concurrent processes for parts that are not timed.
        command: The command line.
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
    """Runs every part, writes each part's folder, and joins the figures.

    Raises:
        InvalidInput: a part does not exist, or its data is missing or invalid; finished parts keep their results.
        WeightsMissing, VoiceMissing.
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
    """One per process."""
    return PresetSubject(preset, home, parts=parts)


def _measure(plan: Plan, name: str, show: Show | None) -> None:
    (part,) = (part for part in choose_parts(()) if part.name == name)
    subject = _subject(plan.preset, plan.home, plan.parts)
    folder = _folder(plan, name)
    context = PartContext(
        subject=subject,
        data=plan.data,
        folder=folder,
        home=plan.home,
        adapters=subject.language_model.adapters,
        reader=voice_of(plan.preset),
        show=lambda done, total: show(name, done, total) if show else None,
    )
    write_report(folder, part.run(context, part.options), plan.command)


def _folder(plan: Plan, name: str) -> Path:
    return plan.out / "parts" / name


def _join(plan: Plan, parts: Sequence[Part], results: dict[str, dict[str, Any]], seconds: float) -> Report:
    lines = [_line(figure, results[part.name]) | {"part": part.name} for part in parts for figure in part.figures]
    with_target = [line for line in lines if line["reached"] is not None]
    reached = sum(line["reached"] for line in with_target)
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
    details = {"targets": len(with_target), "reached": reached, "seconds": round(seconds, 1), "figures": lines}
    value = round(reached / len(with_target), 4) if with_target else 1.0
    subject = {"preset": plan.preset}
    result = Result(metric="card", value=value, count=len(lines), subject=subject, details=details)
    below = [Table(**_table(each, part.name)) for part in parts for each in results[part.name]["tables"]]
    return Report(result=result, tables=(card, *below))


def _line(figure: Figure, result: dict[str, Any]) -> dict[str, Any]:
    value = _find(result, figure.at)
    minimum = _find(result, figure.minimum_at) if figure.minimum_at else figure.minimum
    reached = None
    if value is None:
        reached = None if minimum is None and figure.maximum is None else False
    elif minimum is not None:
        reached = value >= minimum
    elif figure.maximum is not None:
        reached = value <= figure.maximum
    bounds = (("at least", minimum), ("at most", figure.maximum))
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
