"""Queue lengths as metrics of the clock: it always runs, so workers can be scaled from zero."""

from collections.abc import Iterator
from typing import cast

import redis
from prometheus_client import REGISTRY, CollectorRegistry
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from services.shared import telemetry
from services.shared.jobs.dispatch import Dispatcher, Queue

log = telemetry.get_logger(__name__)

# Number and total seconds of all planned clips since Redis was last empty.
_LENGTHS = "lyra:clip-lengths"
# The maximum; used until the first plan is recorded.
_MAX_CLIP_SECONDS = 30.0


def record_clips(client: "redis.Redis", clips: int, seconds: float) -> None:
    """Adds the clips of a plan to the mean clip length. Raises redis.RedisError."""
    with client.pipeline() as pipeline:
        pipeline.hincrby(_LENGTHS, "clips", clips)
        pipeline.hincrbyfloat(_LENGTHS, "seconds", seconds)
        pipeline.execute()


class QueueMetrics(Collector):
    """Queries Redis on every scrape. Without Redis there are no samples, rather than wrong ones."""

    def __init__(self, client: "redis.Redis", dispatcher: Dispatcher) -> None:
        self._client = client
        self._dispatcher = dispatcher

    def register(self, registry: CollectorRegistry = REGISTRY) -> None:
        """Replaces the gauge of waiting audio that every process has but only model services set."""
        registry.unregister(telemetry.AUDIO_SECONDS_WAITING)
        registry.register(self)

    def describe(self) -> Iterator[GaugeMetricFamily]:
        yield _units()
        yield _audio_seconds()

    def collect(self) -> Iterator[GaugeMetricFamily]:
        units, audio_seconds = _units(), _audio_seconds()
        try:
            waiting = {queue: len(self._dispatcher.backlogs[queue]) for queue in Queue}
            mean = self._mean_clip_seconds()
        except redis.RedisError as error:
            log.warning("cannot read the queue lengths", reason=str(error))
        else:
            for queue, count in waiting.items():
                units.add_metric([queue.value], count)
            audio_seconds.add_metric([], waiting[Queue.CLIPS] * mean)
        yield units
        yield audio_seconds

    def _mean_clip_seconds(self) -> float:
        found = cast("list[bytes | None]", self._client.hmget(_LENGTHS, ["clips", "seconds"]))
        clips, seconds = (float(value or 0) for value in found)
        return seconds / clips if clips else _MAX_CLIP_SECONDS


def _units() -> GaugeMetricFamily:
    return GaugeMetricFamily("lyra_units_waiting", "Units of jobs that wait for a worker.", labels=["queue"])


def _audio_seconds() -> GaugeMetricFamily:
    return GaugeMetricFamily(
        "lyra_audio_seconds_waiting",
        "Seconds of audio of jobs whose clips wait for a worker, by the mean length of a clip.",
    )
