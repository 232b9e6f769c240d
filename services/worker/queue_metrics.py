"""What waits in Redis, as metrics of the clock: it always runs, so what works on it can be scaled from none."""

from collections.abc import Iterator
from typing import cast

import redis
from prometheus_client import REGISTRY, CollectorRegistry
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from services.shared import telemetry
from services.shared.jobs.tickets import Dispatcher, Queue

log = telemetry.get_logger(__name__)

# How long clips are: their count and their seconds, of all plans since Redis began.
_LENGTHS = "lyra:clip-lengths"
# No clip is longer; taken where Redis has forgotten the lengths.
_LONGEST_CLIP_SECONDS = 30.0


def note_clips(client: "redis.Redis", clips: int, seconds: float) -> None:
    """Counts the clips of a plan, for the mean length of one. Raises redis.RedisError."""
    with client.pipeline() as pipeline:
        pipeline.hincrby(_LENGTHS, "clips", clips)
        pipeline.hincrbyfloat(_LENGTHS, "seconds", seconds)
        pipeline.execute()


class QueueMetrics(Collector):
    """Asks Redis whenever it is scraped. Where Redis is away there is no number, rather than a wrong one."""

    def __init__(self, client: "redis.Redis", dispatcher: Dispatcher) -> None:
        self._client = client
        self._dispatcher = dispatcher

    def register(self, registry: CollectorRegistry = REGISTRY) -> None:
        """Takes the place of the gauge of audio that every process has, and that only model services set."""
        registry.unregister(telemetry.AUDIO_SECONDS_WAITING)
        registry.register(self)

    def describe(self) -> Iterator[GaugeMetricFamily]:
        yield _units()
        yield _audio_seconds()

    def collect(self) -> Iterator[GaugeMetricFamily]:
        units, audio_seconds = _units(), _audio_seconds()
        try:
            waiting = {queue: len(self._dispatcher.queues[queue]) for queue in Queue}
            mean = self._mean_clip_seconds()
        except redis.RedisError as error:
            log.warning("the queues cannot be counted", reason=str(error))
        else:
            for queue, count in waiting.items():
                units.add_metric([queue.value], count)
            audio_seconds.add_metric([], waiting[Queue.CLIPS] * mean)
        yield units
        yield audio_seconds

    def _mean_clip_seconds(self) -> float:
        found = cast("list[bytes | None]", self._client.hmget(_LENGTHS, ["clips", "seconds"]))
        clips, seconds = (float(value or 0) for value in found)
        return seconds / clips if clips else _LONGEST_CLIP_SECONDS


def _units() -> GaugeMetricFamily:
    return GaugeMetricFamily("lyra_units_waiting", "Units of jobs that wait for a worker.", labels=["queue"])


def _audio_seconds() -> GaugeMetricFamily:
    return GaugeMetricFamily(
        "lyra_audio_seconds_waiting",
        "Seconds of audio of jobs whose clips wait for a worker, by the mean length of a clip.",
    )
