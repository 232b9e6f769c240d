"""Statistics of a data set as files: JSON, Markdown tables and histograms."""

from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path

from model_core.data import stats_plots
from model_core.data.data_errors import disk_failures
from model_core.data.files import written_aside
from model_core.data.published_shape import SHAPES
from model_core.data.stats import VALUES, Spread, Stats

_MAX_NAMES = 20  # sources and voices in a table


def markdown(stats: Stats) -> str:
    """The statistics as Markdown tables."""
    spread = [
        (title, *(f"{value:,.6g}" for value in asdict(Spread.of(stats.values[name])).values()))
        for name, title in VALUES.items()
        if stats.values[name]
    ]
    agree = [(line.what, line.published, line.here, "yes" if line.agrees else "no") for line in stats.published]
    parts = [
        f"# {stats.kind}: {stats.samples:,} samples",
        _table(("modality", "samples", "share"), _shares(stats.mix)),
        _table(("figure", "count", "sum", "min", "median", "mean", "p95", "max"), spread),
        f"Tokens are counted by {stats.tokenizer}. {stats.transcribed:.1%} of the recordings have a transcript.",
        f"## Compared with {SHAPES[stats.kind].name}",
        _table(("figure", "published", "this data set", "agrees"), agree),
        _table(("source", "samples", "share"), _shares(stats.sources)),
    ]
    if stats.voices:
        parts.append(_table(("voice", "recordings", "share"), _shares(stats.voices)))
    if stats.bad:
        parts.append(_table(("invalid samples skipped", "count", "share"), _shares(stats.bad)))
    return "\n\n".join(parts) + "\n"


def write_stats(stats: Stats, out: Path) -> None:
    """Writes `stats.json`, `stats.md` and the histograms `durations.png`, `tokens.png`, `modalities.png`.

    Raises:
        DataError: the disk is full.
    """
    with disk_failures(out):
        out.mkdir(parents=True, exist_ok=True)
    for name, text in (("stats.json", stats.to_json()), ("stats.md", markdown(stats))):
        with written_aside(out / name) as partial:
            partial.write_text(text, encoding="utf-8")
    stats_plots.draw(stats, out)


def _shares(counts: dict[str, int]) -> list[tuple[str, ...]]:
    total = sum(counts.values())
    rows: list[tuple[str, ...]] = [
        (name, f"{count:,}", f"{count / total:.1%}") for name, count in list(counts.items())[:_MAX_NAMES]
    ]
    if len(counts) > _MAX_NAMES:
        rest = total - sum(list(counts.values())[:_MAX_NAMES])
        rows.append((f"{len(counts) - _MAX_NAMES} more", f"{rest:,}", f"{rest / total:.1%}"))
    return rows


def _table(headings: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [headings, ("---",) * len(headings), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', '/') for cell in line)} |" for line in lines)
