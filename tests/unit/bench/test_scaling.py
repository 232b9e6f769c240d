"""Simulated autoscalers decide as Kubernetes' and KEDA's documentation says."""

import json
from dataclasses import asdict, replace
from typing import Any

import pytest
import yaml

from bench.autoscaling import OBJECTS, compare, joint_settings, peak_of, size_replicas, start_seconds, verdict
from bench.report import RESULTS
from bench.scaling.chart import MODEL_SERVICES, UnknownObject, read_services
from bench.scaling.queries import Query, UnknownQuery
from bench.scaling.rules import DEFAULT_DOWN, DEFAULT_UP, Autoscaler, Behavior, Policy, Settings, Trigger
from bench.scaling.simulation import Simulation
from bench.scaling.traffic import Question, Recording, Speeds, Traffic, day

AT_ONCE = Behavior(0.0, (Policy("Percent", 100, 15.0),))


def scaler(least: int = 1, most: int = 10, target: float = 2.0, **settings: Any) -> Autoscaler:
    values: dict[str, Any] = {"up": Behavior(0.0, (Policy("Pods", 100, 15.0),)), "down": AT_ONCE, **settings}
    return Autoscaler(Settings(least, most, (Trigger("q", target),), **values))


@pytest.mark.parametrize(("value", "wanted"), [(12.0, 6), (11.0, 6), (8.7, 4), (7.3, 4), (7.1, 4), (6.0, 3), (0.0, 1)])
def test_replicas_are_the_value_over_the_target_rounded_up_outside_the_tolerance(value: float, wanted: int) -> None:
    assert scaler().sync(0.0, 4, [value]) == wanted


def test_replica_bounds_are_respected() -> None:
    assert scaler(least=3).sync(0.0, 4, [0.0]) == 3
    assert scaler(most=5).sync(0.0, 4, [100.0]) == 5
    assert scaler(most=5).sync(0.0, 9, [18.0]) == 5


def test_the_trigger_that_needs_the_most_replicas_decides() -> None:
    settings = Settings(1, 10, (Trigger("a", 1.0), Trigger("b", 1.0)), up=AT_ONCE, down=AT_ONCE)
    assert Autoscaler(settings).sync(0.0, 4, [2.0, 7.0]) == 7


def test_default_policies_double_or_add_four_in_a_period() -> None:
    defaults = scaler(most=100, up=DEFAULT_UP)
    assert defaults.sync(0.0, 1, [200.0]) == 5
    assert defaults.sync(10.0, 5, [200.0]) == 5  # the period is not over
    assert defaults.sync(16.0, 5, [200.0]) == 10


def test_scaling_down_uses_the_highest_recommendation_of_the_window() -> None:
    slow = scaler(down=DEFAULT_DOWN)
    assert slow.sync(0.0, 6, [12.0]) == 6
    assert slow.sync(150.0, 6, [2.0]) == 6
    assert slow.sync(299.0, 6, [2.0]) == 6
    assert slow.sync(301.0, 6, [2.0]) == 1


def test_scaling_up_uses_the_lowest_recommendation_of_the_window() -> None:
    patient = scaler(up=Behavior(60.0, (Policy("Pods", 100, 15.0),)))
    assert patient.sync(0.0, 2, [4.0]) == 2
    assert patient.sync(30.0, 2, [12.0]) == 2
    assert patient.sync(61.0, 2, [12.0]) == 6


def test_a_pods_policy_removes_one_pod_per_period() -> None:
    slow = scaler(down=Behavior(0.0, (Policy("Pods", 1, 60.0),)))
    assert slow.sync(0.0, 6, [2.0]) == 5
    assert slow.sync(15.0, 5, [2.0]) == 5
    assert slow.sync(61.0, 5, [2.0]) == 4


def test_select_policy_min_and_disabled_are_applied() -> None:
    policies = (Policy("Pods", 4, 60.0), Policy("Percent", 10, 60.0))
    assert scaler(down=Behavior(0.0, policies, "Min"), most=50).sync(0.0, 40, [2.0]) == 36
    assert scaler(down=Behavior(0.0, policies, "Max"), most=50).sync(0.0, 40, [2.0]) == 36
    assert scaler(down=Behavior(0.0, policies, "Min"), most=50).sync(0.0, 20, [2.0]) == 18
    assert scaler(down=Behavior(0.0, policies, "Disabled"), most=50).sync(0.0, 20, [2.0]) == 20


def test_keda_scales_from_zero_when_active_and_to_zero_after_the_cooldown() -> None:
    sleepy = scaler(least=0, cooldown_seconds=100.0)
    assert sleepy.poll(0.0, 0, [0.0]) == 0
    assert sleepy.sync(0.0, 0, [50.0]) == 0  # the HPA rests at zero
    assert sleepy.poll(15.0, 0, [0.5]) == 1
    assert sleepy.poll(100.0, 1, [0.0]) == 1
    assert sleepy.sync(100.0, 1, [0.0]) == 1  # the HPA never scales to zero
    assert sleepy.poll(116.0, 1, [0.0]) == 0


def test_the_activation_threshold_must_be_exceeded() -> None:
    settings = Settings(0, 5, (Trigger("q", 1.0, activation=3.0),))
    assert Autoscaler(settings).poll(0.0, 0, [3.0]) == 0
    assert Autoscaler(settings).poll(0.0, 0, [3.1]) == 1


SAMPLES = [
    {
        ("lyra_requests_waiting", "a"): 3.0,
        ("lyra_requests_waiting", "b"): 9.0,
        ("lyra_calls_unserved_total", "a"): 10.0,
    },
    {("lyra_requests_waiting", "a"): 1.0, ("lyra_calls_unserved_total", "a"): 4.0},
]


@pytest.mark.parametrize(
    ("query", "value"),
    [
        ('sum(lyra_requests_waiting{namespace="x",service="a"})', 3.0),
        ('(sum(lyra_requests_waiting{service=~"a|b"}) or vector(0)) + max(lyra_requests_waiting{service="a"})', 15.0),
        ('sum(increase(lyra_calls_unserved_total{service="a"}[15s]))', 6.0),
        ('sum(rate(lyra_calls_unserved_total{service="a"}[15s]))', 0.4),
        ('sum(avg_over_time(lyra_requests_waiting{service="a"}[30s]))', 2.0),
        ('sum(max_over_time(lyra_requests_waiting{service="a"}[30s]))', 3.0),
        ("sum(lyra_audio_seconds_waiting)", 0.0),
    ],
)
def test_queries_of_the_chart_are_evaluated(query: str, value: float) -> None:
    assert Query.parse(query).value(lambda seconds: SAMPLES[round(seconds / 15)]) == pytest.approx(value)


@pytest.mark.parametrize(
    "query",
    [
        "sum(lyra_requests_waiting) * 2",
        "sum(http_requests_total)",
        "sum(lyra_requests_waiting",
        'sum(lyra_requests_waiting{tenant="a"})',
        'sum(lyra_requests_waiting{service!="a"})',
        "sum(lyra_calls_unserved_total[2m])",
        "",
    ],
)
def test_an_unsupported_query_is_an_error(query: str) -> None:
    with pytest.raises(UnknownQuery):
        Query.parse(query)


def objects() -> list[dict[str, Any]]:
    return [each for each in yaml.safe_load_all(OBJECTS.read_text()) if each]


def test_the_charts_objects_are_read_with_their_defaults() -> None:
    services = {service.name: service for service in read_services(objects())}
    assert set(services) == set(MODEL_SERVICES)
    language = services["language-model"]
    assert language.gpus == 1.0
    assert 0 < services["vision-encoder"].gpus < 1
    assert language.autoscaler is not None
    assert language.autoscaler.min_replicas <= language.autoscaler.max_replicas
    for service in services.values():
        assert service.autoscaler is not None
        assert all(Query.parse(trigger.query) for trigger in service.autoscaler.triggers)


def test_a_metric_that_is_not_simulated_is_named() -> None:
    hpa = {
        "kind": "HorizontalPodAutoscaler",
        "spec": {
            "scaleTargetRef": {"name": "lyra-language-model"},
            "maxReplicas": 3,
            "metrics": [{"type": "Resource", "resource": {"name": "cpu", "target": {"averageUtilization": 70}}}],
        },
    }
    with pytest.raises(UnknownObject, match=r"lyra-language-model.*cpu"):
        read_services([hpa])


def test_a_service_at_zero_scales_up_for_a_question_that_waits_for_the_pod() -> None:
    services = [
        replace(each, autoscaler=None)
        if each.name != "speech-encoder"
        else replace(
            each,
            autoscaler=Settings(
                0,
                2,
                (Trigger('sum(increase(lyra_calls_unserved_total{service="speech_encoder"}[2m]))', 1000.0),),
                polling_seconds=15.0,
                cooldown_seconds=60.0,
            ),
        )
        for each in read_services(objects())
    ]
    question = Question(at=1000.0, audio_seconds=5.0, pictures=0, answer_seconds=1.0, spoken=False)
    starts = dict.fromkeys(MODEL_SERVICES, 30.0)
    outcome = Simulation(services, Traffic(2000.0, (question,), ()), Speeds(), starts).run()
    replicas = [count["speech-encoder"] for _, count in outcome.replicas]
    assert {0, 1} == set(replicas)
    assert replicas[-1] == 0
    ((_, waited),) = outcome.questions
    assert 30.0 < waited < 90.0


def test_all_questions_are_answered_and_recordings_transcribed() -> None:
    speeds = Speeds()
    traffic = day(peak_per_second=0.5, speeds=speeds, begin=36_000, end=37_800)
    traffic = replace(traffic, recordings=(Recording(60.0, 600.0),))
    outcome = Simulation(read_services(objects()), traffic, speeds, dict.fromkeys(MODEL_SERVICES, 20.0)).run()
    assert len(outcome.questions) == len(traffic.questions)
    ((seconds, seconds_taken),) = outcome.recordings
    assert seconds == 600.0
    assert seconds_taken == pytest.approx(600.0 * speeds.transcribe_factor, abs=30.0)


def test_the_charts_settings_meet_their_goals_on_a_short_day() -> None:
    """A whole day is `make bench-autoscaling`; here its first peak and the quiet hours before."""
    services, speeds = read_services(objects()), Speeds()
    traffic = day(peak_per_second=peak_of(services, speeds, 0.3), speeds=speeds, begin=3 * 3600, end=9.25 * 3600)
    outcomes = compare(services, traffic, speeds, start_seconds(20.0), goal=1.0, transcribed_goal=600.0)
    found = verdict(outcomes["autoscaled"], outcomes["fixed"])
    assert found["gpu_hours_over_fixed"] < 0.6
    assert outcomes["autoscaled"].p95() < 3.0
    assert outcomes["autoscaled"].hours < outcomes["joint"].hours


def test_the_published_results_are_for_the_charts_current_settings() -> None:
    shown = json.loads((RESULTS / "autoscaling.json").read_text())
    today = {each.name: asdict(each) for each in read_services(objects())}
    assert shown["autoscalers"] == json.loads(json.dumps(today)), "run `make bench-autoscaling`"
    assert shown["verdict"]["reached"]


def test_traffic_beyond_the_largest_fleet_is_an_error() -> None:
    services, speeds = read_services(objects()), Speeds()
    traffic = day(peak_per_second=40.0, speeds=speeds, begin=36_000, end=36_060)
    with pytest.raises(ValueError, match="language-model: 32 replicas are not enough"):
        size_replicas(services, traffic, speeds, goal=0.01, transcribed_goal=600.0)


def test_the_joint_scaler_uses_every_trigger() -> None:
    services = read_services(objects())
    joint = joint_settings(services)
    assert len(joint.triggers) == sum(len(each.autoscaler.triggers) for each in services if each.autoscaler)
    assert joint.min_replicas >= 1
