"""What waits in Redis, as the clock tells it to Prometheus."""

import redis
from prometheus_client import CollectorRegistry, generate_latest

from services.shared.jobs.backlog import QueuedUnit
from services.shared.jobs.dispatch import Dispatcher, make_celery
from services.shared.jobs.kinds import Priority
from services.shared.jobs.layout import JobId
from services.shared.jobs.settings import JobSettings
from services.shared.jobs.state import Unit, Work
from services.worker.queue_metrics import QueueMetrics, record_clips
from tests.servers import RedisServer, StartRedis


def metrics_of(url: str) -> tuple[Dispatcher, "redis.Redis", CollectorRegistry]:
    client, registry = redis.Redis.from_url(url, socket_connect_timeout=1), CollectorRegistry(auto_describe=True)
    dispatcher = Dispatcher(client, make_celery(JobSettings(redis_url=url)))
    registry.register(QueueMetrics(client, dispatcher))
    return dispatcher, client, registry


def test_units_are_told_by_queue_and_clips_as_seconds_of_audio_by_their_mean_length(redis_server: RedisServer) -> None:
    dispatcher, client, registry = metrics_of(redis_server.url)
    client.flushall()
    dispatcher.push(JobId("acme", "job-1"), [Unit(Work.CLIP, index) for index in range(4)], Priority.NORMAL)
    dispatcher.push(JobId("other", "job-2"), [Unit(Work.PLAN)], Priority.NORMAL)
    assert registry.get_sample_value("lyra_units_waiting", {"queue": "clips"}) == 4
    assert registry.get_sample_value("lyra_units_waiting", {"queue": "plans"}) == 1
    assert registry.get_sample_value("lyra_units_waiting", {"queue": "answers"}) == 0
    assert registry.get_sample_value("lyra_audio_seconds_waiting") == 4 * 30  # the longest, while none was planned
    record_clips(client, 2, 50.0)
    record_clips(client, 2, 30.0)
    assert registry.get_sample_value("lyra_audio_seconds_waiting") == 4 * 20
    dispatcher.start(QueuedUnit(JobId("acme", "job-1"), Unit(Work.CLIP, 0)))
    assert registry.get_sample_value("lyra_audio_seconds_waiting") == 3 * 20


def test_where_redis_is_away_there_is_no_number_and_the_rest_is_told(start_redis: StartRedis) -> None:
    server = start_redis()
    _, _, registry = metrics_of(server.url)
    assert b'lyra_units_waiting{queue="clips"} 0.0' in generate_latest(registry)
    server.process.kill()
    text = generate_latest(registry)
    assert b"# TYPE lyra_units_waiting gauge" in text
    assert b"lyra_units_waiting{" not in text
    server.start_again()
    assert registry.get_sample_value("lyra_audio_seconds_waiting") == 0


def test_the_gauge_of_model_services_makes_way_for_it() -> None:
    from services.shared import telemetry

    registry = CollectorRegistry()
    registry.register(telemetry.AUDIO_SECONDS_WAITING)
    _, client, _ = metrics_of("redis://127.0.0.1:9/0")
    QueueMetrics(client, Dispatcher(client, make_celery(JobSettings()))).register(registry)
    assert generate_latest(registry).count(b"# TYPE lyra_audio_seconds_waiting gauge") == 1
