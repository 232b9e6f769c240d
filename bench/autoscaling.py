"""A day of traffic against the chart's own autoscalers, against fixed replicas, and against one scaler for all.

python -m bench.autoscaling

Reads ScaledObjects and HorizontalPodAutoscalers as the chart renders them with values-production.yaml. Speeds and start
times are those of preset nano, measured here (bench/results/pod_start.json and first_audio.json); so GPU hours say how
the ways of scaling compare, not what a GPU does. Fixed replicas are as few as keep to the goals: so many seconds of
waiting for all but a twentieth of the questions, so many until all but a twentieth of the recordings are heard.
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
MOST_WAITING, MOST_HOURS = 1.2, 0.6  # what autoscaling may cost and has to save, as shares of fixed replicas
# Of a pod beside its process: scheduling and creating the container 5 s, its first probes 5 s, being found by
# clients 25 s (up to 30 s of a cached DNS answer, up to LYRA_MAX_CONNECTION_SECONDS until they ask).
AROUND_SECONDS = 35.0
# Of the goal for waiting, what services may take beside the language model.
_PART_OF_GOAL = 0.25
_SLOWER = (60.0, 180.0, 600.0)


def start_seconds(around: float, measured: Path = RESULTS / "pod_start.json") -> dict[str, float]:
    """From the wish for a pod to its first call, by service."""
    seconds = json.loads(measured.read_text())["seconds"]
    return {name.replace("_", "-"): around + each["median"] for name, each in seconds.items()}


def meets(outcome: Outcome, service: str, goal: float, heard_goal: float) -> bool:
    """Whether a service's replicas suffice."""
    seconds = goal if service == LANGUAGE else _PART_OF_GOAL * goal
    return outcome.p95(service) <= seconds and (service != SPEECH or outcome.heard_p95 <= heard_goal)


def sized(
    services: Sequence[ScaledService], traffic: Traffic, speeds: Speeds, *, goal: float, heard_goal: float
) -> dict[str, int]:
    """The fewest fixed replicas of each service that keep to the goals.

    Raises ValueError where even twice the chart's most do not.
    """
    fewest = {each.name: 1 for each in services}
    enough = {each.name: 2 * (each.autoscaler.max_replicas if each.autoscaler else each.replicas) for each in services}
    most = dict(enough)
    while any(fewest[name] < enough[name] for name in fewest):
        tried = {name: (fewest[name] + enough[name]) // 2 for name in fewest}
        outcome = Simulation(services, traffic, speeds, dict.fromkeys(fewest, 0.0), fixed=tried).run()
        for name, count in tried.items():
            if meets(outcome, name, goal, heard_goal):
                enough[name] = count
            else:
                fewest[name] = min(count + 1, enough[name])
    if short := [name for name in most if enough[name] == most[name]]:
        raise ValueError(f"{', '.join(short)}: {most[short[0]]} replicas are not enough for this traffic")
    return enough


def joint_settings(services: Sequence[ScaledService]) -> Settings:
    """One scaler for all: it looks at every number, and every service gets as many replicas as the neediest."""
    every = {each.name: each.autoscaler for each in services if each.autoscaler is not None}
    return replace(
        every[LANGUAGE],
        min_replicas=max(1, *(settings.min_replicas for settings in every.values())),
        max_replicas=max(settings.max_replicas for settings in every.values()),
        triggers=tuple(trigger for settings in every.values() for trigger in settings.triggers),
    )


def summary(outcome: Outcome) -> dict[str, Any]:
    """The numbers of a run."""
    return {
        "gpu_hours": round(outcome.hours, 1),
        "waiting_p95_seconds": round(outcome.p95(), 2),
        "heard_p95_seconds": round(outcome.heard_p95, 0),
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
    heard_goal: float,
) -> dict[str, Outcome]:
    """Runs the same traffic under the chart's autoscalers, fixed replicas, and one joint scaler."""
    fixed = sized(services, traffic, speeds, goal=goal, heard_goal=heard_goal)
    return {
        "autoscaled": Simulation(services, traffic, speeds, starts).run(),
        "fixed": Simulation(services, traffic, speeds, starts, fixed=fixed).run(),
        "joint": Simulation(services, traffic, speeds, starts, joint=joint_settings(services)).run(),
    }


def verdict(autoscaled: Outcome, fixed: Outcome) -> dict[str, Any]:
    """What was to be reached, and whether it was."""
    waiting, hours = _ratio(autoscaled.p95(), fixed.p95()), autoscaled.hours / fixed.hours
    heard = _ratio(autoscaled.heard_p95, fixed.heard_p95)
    return {
        "waiting_p95_over_fixed": round(waiting, 3),
        "heard_p95_over_fixed": round(heard, 3),
        "gpu_hours_over_fixed": round(hours, 3),
        "reached": waiting <= MOST_WAITING and heard <= MOST_WAITING and hours <= MOST_HOURS,
    }


def _ratio(ours: float, theirs: float) -> float:
    """Of two waits, of which both may be none."""
    return ours / theirs if theirs else math.inf if ours else 1.0


def peak_of(services: Sequence[ScaledService], speeds: Speeds, load: float) -> float:
    """Questions a second that keep so large a share of the language model's most replicas busy."""
    language = next(each for each in services if each.name == LANGUAGE)
    most = language.autoscaler.max_replicas if language.autoscaler else language.replicas
    return load * most / speeds.answer_seconds


def main() -> None:
    parser = command_line("autoscaling", __doc__)
    parser.add_argument("--objects", type=Path, default=OBJECTS, help="what `helm template` renders")
    parser.add_argument("--load", type=float, default=0.3, help="busy share of the most replicas in the busiest minute")
    parser.add_argument("--goal-seconds", type=float, default=1.0, help="waiting of fixed replicas, 95th percentile")
    parser.add_argument("--heard-minutes", type=float, default=10.0, help="until a recording is heard, likewise")
    parser.add_argument("--around-seconds", type=float, default=AROUND_SECONDS, help="of a pod beside its process")
    parser.add_argument("--seed", type=int, default=0, help="of the traffic")
    options = parser.parse_args()
    services = read_services(each for each in yaml.safe_load_all(options.objects.read_text()) if each)
    speeds = Speeds()
    peak = peak_of(services, speeds, options.load)
    traffic = day(peak_per_second=peak, speeds=speeds, seed=options.seed)
    goals = {"goal": options.goal_seconds, "heard_goal": 60 * options.heard_minutes}
    starts = start_seconds(options.around_seconds)
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
        sys.exit(f"not reached: waiting within {MOST_WAITING} x at {MOST_HOURS:.0%} of the GPU hours")


if __name__ == "__main__":
    main()
