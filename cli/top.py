"""`lyra top`: what the model services are doing, live."""

import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import httpx
import typer
from rich.console import Group, RenderableType
from rich.live import Live
from rich.markup import escape
from rich.progress_bar import ProgressBar
from rich.table import Table

from cli.connection import local_state
from cli.console import out, write_text
from cli.failure import CommandFailed

if TYPE_CHECKING:
    from services.operations.cluster.metrics import Samples

_TIMEOUT_SECONDS = 2.0
_BAR_WIDTH = 24


@dataclass(frozen=True, slots=True)
class Reading:
    """Metrics of the services at one moment; None for a service that did not respond."""

    seconds: float
    samples: Mapping[str, "Samples | None"]


def top(
    metrics: Annotated[
        list[str] | None,
        typer.Option(metavar="URL", help="Metrics page of a service; repeatable. Default: those of `lyra serve`."),
    ] = None,
    every: Annotated[float, typer.Option(min=0.2, help="Refresh interval in seconds.")] = 1.0,
    once: Annotated[bool, typer.Option("--once", help="Show one interval and stop.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, a line per interval.")] = False,
) -> None:
    """Show what the model services are doing: requests, tokens per second, pages of the key-value cache, prefix cache.

    \b
    Examples:
      lyra top
      lyra top --metrics http://127.0.0.1:9153/metrics
      lyra top --once --json | jq .language_model
    """
    pages = {httpx.URL(url).netloc.decode(): url for url in metrics} if metrics else _local_pages()
    readings = _readings(pages, every)
    before = next(readings)
    if once:
        _show(before, next(readings), as_json)
        return
    if as_json or not out.is_terminal:
        for now in readings:
            _show(before, now, as_json)
            before = now
        return
    with Live(console=out, auto_refresh=False, screen=True) as live:
        for now in readings:
            live.update(_view(before, now), refresh=True)
            before = now


def _local_pages() -> dict[str, str]:
    stack = local_state()
    if stack is None:
        raise CommandFailed("no stack is running on this machine", "start one with: lyra serve, or name --metrics URL")
    return {
        name: f"http://{service['address'].rpartition(':')[0]}:{service['metrics_port']}/metrics"
        for name, service in stack["services"].items()
    }


def _readings(pages: Mapping[str, str], every: float) -> Iterator[Reading]:
    with httpx.Client(timeout=_TIMEOUT_SECONDS, trust_env=False) as client:
        while True:
            yield Reading(time.monotonic(), {name: _scrape(client, url) for name, url in pages.items()})
            time.sleep(every)


def _scrape(client: httpx.Client, url: str) -> "Samples | None":
    from services.operations.cluster.metrics import parse

    try:
        return parse(client.get(url).raise_for_status().text)
    except httpx.HTTPError:
        return None


def _show(before: Reading, now: Reading, as_json: bool) -> None:
    if as_json:
        write_text(json.dumps({name: _figures(name, before, now) for name in now.samples}) + "\n")
    else:
        out.print(_view(before, now), soft_wrap=True)


def _figures(name: str, before: Reading, now: Reading) -> dict[str, object] | None:
    """What is shown of a service; None if it did not respond."""
    new, old = now.samples[name], before.samples[name]
    if new is None:
        return None

    def rate(metric: str) -> float:
        earlier = old.sum(metric) if old else None
        return round(max((new.sum(metric) or 0) - (earlier or 0), 0) / (now.seconds - before.seconds), 1)

    figures: dict[str, object] = {
        "calls": new.running_calls or 0,
        "running": round(new.sum("lyra_model_running") or 0),
        "waiting": round(new.sum("lyra_requests_waiting") or 0),
    }
    if new.sum("lyra_cache_pages_free") is not None:
        lookups, hits = (new.sum(f"lyra_prefix_cache_{kind}_total") or 0 for kind in ("queries", "hits"))
        by_block = new.sum_by("lyra_cache_block_pages", "block")
        figures |= {
            "prompt_tokens_per_second": rate("lyra_prompt_tokens_total"),
            "generated_tokens_per_second": rate("lyra_generation_tokens_total"),
            "pages": {kind: round(new.sum(f"lyra_cache_pages_{kind}") or 0) for kind in ("used", "cached", "free")},
            "pages_by_block": {block: round(count) for block, count in by_block.items()},
            "prefix_cache_hit_share": round(hits / lookups, 3) if lookups else None,
            "preemptions": round(new.sum("lyra_preemptions_total") or 0),
        }
    return figures


def _view(before: Reading, now: Reading) -> RenderableType:
    table = Table(box=None, header_style="bold")
    table.add_column("service", no_wrap=True)
    for column in ("calls", "running", "waiting", "prompt tokens/s", "tokens/s"):
        table.add_column(column, justify="right")
    caches: list[RenderableType] = []
    for name in now.samples:
        figures = _figures(name, before, now)
        if figures is None:
            table.add_row(escape(name), "[red]down[/]")
            continue
        rates = (figures.get(f"{kind}_tokens_per_second", "") for kind in ("prompt", "generated"))
        table.add_row(escape(name), *(str(figures[key]) for key in ("calls", "running", "waiting")), *map(str, rates))
        if "pages" in figures:
            caches.append(_cache_view(figures))
    return Group(table, *caches)


def _cache_view(figures: Mapping[str, object]) -> RenderableType:
    pages, blocks = figures["pages"], figures["pages_by_block"]
    assert isinstance(pages, dict)
    assert isinstance(blocks, dict)
    total = sum(pages.values())
    table = Table(box=None, show_header=False, pad_edge=False)
    for kind, count in (*pages.items(), *((f"used, block {block}", count) for block, count in blocks.items())):
        table.add_row(
            f"pages {kind}", f"{count:,}", ProgressBar(total=max(total, 1), completed=count, width=_BAR_WIDTH)
        )
    share = figures["prefix_cache_hit_share"]
    table.add_row("prefix cache hits", "" if share is None else f"{share:.0%}", "")
    table.add_row("preemptions", str(figures["preemptions"]), "")
    return table
