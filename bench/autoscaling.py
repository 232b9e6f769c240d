"""Simulates a day of traffic with the chart's autoscalers, fixed replicas, and one autoscaler for all services.

python -m bench.autoscaling

Uses the ScaledObjects and HorizontalPodAutoscalers that the chart renders with values-production.yaml. Speeds and start
times are those measured with preset nano (bench/results/pod_start.json and first_audio.json), so GPU hours compare the
ways of scaling but do not predict the throughput of a GPU. Fixed replicas are the minimum that meets both goals: the
95th percentiles of the time that questions wait, and of the time until a recording is transcribed.
"""

import json
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import yaml

from bench.report import RESULTS, command_line, write
from bench.scaling.chart import ScaledService, read_services
from bench.scaling.plot import plot
from bench.scaling.rules import Settings
from bench.scaling.simulation import LANGUAGE, SPEECH, Outcome, Simulation
from bench.scaling.traffic import Speeds, Traffic, day

OBJECTS = Path(__file__).parents[1] / "helm" / "lyra" / "examples" / "production.yaml"
MAX_WAITING, MAX_HOURS = 1.2, 0.6  # targets of autoscaling, relative to fixed replicas
# Start of a pod apart from its process: 5 s to schedule it and create the container, 5 s for the first probes, 25 s
# until clients find it (DNS answers are cached for up to 30 s, and resolved again after LYRA_MAX_CONNECTION_SECONDS).
POD_OVERHEAD_SECONDS = 35.0
# Share of the waiting goal for services other than the language model.
_OTHER_SERVICES_SHARE = 0.25
_SLOWER = (60.0, 180.0, 600.0)


def start_seconds(overhead: float, measured: Path = RESULTS / "pod_start.json") -> dict[str, float]:
    """Seconds from the decision to add a pod to its first call, by service."""
    seconds = json.loads(measured.read_text())["seconds"]
    return {name.replace("_", "-"): overhead + each["median"] for name, each in seconds.items()}


def meets(outcome: Outcome, service: str, goal: float, transcribed_goal: float) -> bool:
    """Whether a service's replicas meet the goals."""
    seconds = goal if service == LANGUAGE else _OTHER_SERVICES_SHARE * goal
    return outcome.p95(service) <= seconds and (service != SPEECH or outcome.transcribed_p95 <= transcribed_goal)


def size_replicas(
    services: Sequence[ScaledService], traffic: Traffic, speeds: Speeds, *, goal: float, transcribed_goal: float
) -> dict[str, int]:
    """Minimum fixed replicas of each service that meet the goals, by binary search.

    Raises ValueError if even twice the chart's maximum replicas do not.
    """
    low = {each.name: 1 for each in services}
    high = {each.name: 2 * (each.autoscaler.max_replicas if each.autoscaler else each.replicas) for each in services}
    limits = dict(high)
    while any(low[name] < high[name] for name in low):
        tried = {name: (low[name] + high[name]) // 2 for name in low}
        outcome = Simulation(services, traffic, speeds, dict.fromkeys(low, 0.0), fixed=tried).run()
        for name, count in tried.items():
            if meets(outcome, name, goal, transcribed_goal):
                high[name] = count
            else:
                low[name] = min(count + 1, high[name])
    if short := [name for name in limits if high[name] == limits[name]]:
        raise ValueError(f"{', '.join(short)}: {limits[short[0]]} replicas are not enough for this traffic")
    return high


def joint_settings(services: Sequence[ScaledService]) -> Settings:
    """One autoscaler with the triggers of all services, which all get the same number of replicas."""
    every = {each.name: each.autoscaler for each in services if each.autoscaler is not None}
    return replace(
        every[LANGUAGE],
        min_replicas=max(1, *(settings.min_replicas for settings in every.values())),
        max_replicas=max(settings.max_replicas for settings in every.values()),
        triggers=tuple(trigger for settings in every.values() for trigger in settings.triggers),
    )


def summary(outcome: Outcome) -> dict[str, Any]:
    """Results of a run."""
    return {
        "gpu_hours": round(outcome.hours, 1),
        "waiting_p95_seconds": round(outcome.p95(), 2),
        "transcribed_p95_seconds": round(outcome.transcribed_p95, 0),
        "services": {
            name: {"gpu_hours": round(hours, 1), "waiting_p95_seconds": round(outcome.p95(name), 2)}
            for name, hours in outcome.gpu_hours.items()
        },
    }


def compare(
    services: Sequence[ScaledService],
    traffic: Traffic,
    speeds: Speeds,
    starts: Mapping[str, float],
    *,
    goal: float,
    transcribed_goal: float,
) -> dict[str, Outcome]:
    """Simulates the same traffic with the chart's autoscalers, fixed replicas, and one joint autoscaler."""
    fixed = size_replicas(services, traffic, speeds, goal=goal, transcribed_goal=transcribed_goal)
    return {
        "autoscaled": Simulation(services, traffic, speeds, starts).run(),
        "fixed": Simulation(services, traffic, speeds, starts, fixed=fixed).run(),
        "joint": Simulation(services, traffic, speeds, starts, joint=joint_settings(services)).run(),
    }


def verdict(autoscaled: Outcome, fixed: Outcome) -> dict[str, Any]:
    """Ratios to fixed replicas, and whether they meet the targets."""
    waiting, hours = _ratio(autoscaled.p95(), fixed.p95()), autoscaled.hours / fixed.hours
    transcribed = _ratio(autoscaled.transcribed_p95, fixed.transcribed_p95)
    return {
        "waiting_p95_over_fixed": round(waiting, 3),
        "transcribed_p95_over_fixed": round(transcribed, 3),
        "gpu_hours_over_fixed": round(hours, 3),
        "reached": waiting <= MAX_WAITING and transcribed <= MAX_WAITING and hours <= MAX_HOURS,
    }


def _ratio(ours: float, theirs: float) -> float:
    """Ratio of two waiting times, either of which may be 0."""
    return ours / theirs if theirs else math.inf if ours else 1.0


def peak_of(services: Sequence[ScaledService], speeds: Speeds, load: float) -> float:
    """Questions per second that keep a share of `load` of the language model's maximum replicas busy."""
    language = next(each for each in services if each.name == LANGUAGE)
    replicas = language.autoscaler.max_replicas if language.autoscaler else language.replicas
    return load * replicas / speeds.answer_seconds


def main() -> None:
    parser = command_line("autoscaling", __doc__)
    parser.add_argument("--objects", type=Path, default=OBJECTS, help="output of `helm template`")
    parser.add_argument("--load", type=float, default=0.3, help="load in the busiest minute, 1 for all replicas")
    parser.add_argument("--goal-seconds", type=float, default=1.0, help="goal for waiting, 95th percentile")
    parser.add_argument("--transcribed-minutes", type=float, default=10.0, help="goal for transcription, likewise")
    parser.add_argument(
        "--overhead-seconds", type=float, default=POD_OVERHEAD_SECONDS, help="pod start without its process"
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of the traffic")
    options = parser.parse_args()
    services = read_services(each for each in yaml.safe_load_all(options.objects.read_text()) if each)
    speeds = Speeds()
    peak = peak_of(services, speeds, options.load)
    traffic = day(peak_per_second=peak, speeds=speeds, seed=options.seed)
    goals = {"goal": options.goal_seconds, "transcribed_goal": 60 * options.transcribed_minutes}
    starts = start_seconds(options.overhead_seconds)
    outcomes = compare(services, traffic, speeds, starts, **goals)
    slower = {
        f"{seconds:g} s": summary(Simulation(services, traffic, speeds, start_seconds(seconds)).run())
        for seconds in _SLOWER
    }
    reached = verdict(outcomes["autoscaled"], outcomes["fixed"])
    report = {
        "traffic": {
            "questions": len(traffic.questions),
            "recordings": len(traffic.recordings),
            "recorded_hours": round(sum(each.audio_seconds for each in traffic.recordings) / 3600, 1),
            "peak_per_second": round(peak, 2),
        },
        "speeds": asdict(speeds),
        "start_seconds": {name: round(seconds, 1) for name, seconds in starts.items()},
        "goals": goals,
        "autoscalers": {each.name: asdict(each) for each in services},
        "runs": {name: summary(outcome) for name, outcome in outcomes.items()},
        "autoscaled_where_pods_take_longer": slower,
        "verdict": reached,
    }
    figure = plot(traffic, outcomes)
    write(report, options.out, lambda report: figure)
    for name, outcome in outcomes.items():
        print(f"{name:>10}: {outcome.hours:6.1f} GPU hours, waiting p95 {outcome.p95():5.2f} s")
    print(f"waiting {reached['waiting_p95_over_fixed']} x, GPU hours {reached['gpu_hours_over_fixed']} x")
    if not reached["reached"]:
        sys.exit(f"not reached: waiting within {MAX_WAITING} x at {MAX_HOURS:.0%} of the GPU hours")


if __name__ == "__main__":
    main()
