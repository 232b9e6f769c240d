"""The engine's state as Prometheus metrics."""

from collections.abc import Callable

from prometheus_client import Counter, Gauge

from model_core.engine.engine import Engine, EngineStats
from services.shared import telemetry

PAGES_FREE = Gauge("lyra_cache_pages_free", "Pages of the key-value cache that hold nothing.")
PAGES_USED = Gauge("lyra_cache_pages_used", "Pages of the key-value cache that running requests hold.")
PAGES_CACHED = Gauge("lyra_cache_pages_cached", "Pages of the key-value cache with prefixes that no request uses.")
BLOCK_PAGES = Gauge(
    "lyra_cache_block_pages",
    "Pages of running requests in each block of layers between extractions.",
    ("block",),
)
CACHE_USAGE = Gauge("lyra_cache_usage_ratio", "Share of the key-value cache that running requests hold.")
PREFIX_LOOKUPS = Counter("lyra_prefix_cache_queries_total", "Prompt tokens looked up in the prefix cache.")
PREFIX_HITS = Counter("lyra_prefix_cache_hits_total", "Prompt tokens found in the prefix cache.")
PROMPT_TOKENS = Counter("lyra_prompt_tokens_total", "Prompt tokens that were processed, without cached ones.")
GENERATED_TOKENS = Counter("lyra_generation_tokens_total", "Tokens that were generated.")
PREEMPTIONS = Counter("lyra_preemptions_total", "Requests that lost their memory to others and started again.")


def reporter(engine: Engine) -> Callable[[], None]:
    """What the engine's thread calls after each step to update the metrics."""
    show_queue = telemetry.queue_gauges("language_model")
    before = engine.stats()

    def report() -> None:
        nonlocal before
        now = engine.stats()
        show_queue(now.running, now.waiting)
        PAGES_FREE.set(now.pages_free)
        PAGES_USED.set(now.pages_used)
        PAGES_CACHED.set(now.pages_cached)
        CACHE_USAGE.set(now.pages_used / engine.pool.pages)
        for block in range(max(len(before.pages_by_block), len(now.pages_by_block))):
            held = now.pages_by_block[block] if block < len(now.pages_by_block) else 0
            BLOCK_PAGES.labels(str(block + 1)).set(held)
        for counter, value in _growth(before, now):
            counter.inc(value)
        before = now

    report()
    return report


def _growth(before: EngineStats, now: EngineStats) -> list[tuple[Counter, int]]:
    return [
        (PREFIX_LOOKUPS, now.prefix_lookups - before.prefix_lookups),
        (PREFIX_HITS, now.prefix_hits - before.prefix_hits),
        (PROMPT_TOKENS, now.prompt_tokens - before.prompt_tokens),
        (GENERATED_TOKENS, now.generated_tokens - before.generated_tokens),
        (PREEMPTIONS, now.preemptions - before.preemptions),
    ]
