"""Desired replicas according to Kubernetes and KEDA, implemented after their documentation.

HorizontalPodAutoscaler: https://kubernetes.io/docs/tasks/run-application/horizontal-pod-autoscale/ (algorithm details,
configurable scaling behavior). KEDA: https://keda.sh/docs/latest/reference/scaledobject-spec/ and
https://keda.sh/docs/latest/concepts/scaling-deployments/ (KEDA scales from and to zero, its HPA does the rest).
"""

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

SYNC_SECONDS = 15.0  # --horizontal-pod-autoscaler-sync-period


@dataclass(frozen=True, slots=True)
class Policy:
    """Maximum change in a period, in pods or in percent."""

    kind: Literal["Pods", "Percent"]
    value: int
    period_seconds: float


@dataclass(frozen=True, slots=True)
class Behavior:
    """One direction of `spec.behavior`."""

    stabilization_seconds: float
    policies: tuple[Policy, ...]
    select: Literal["Max", "Min", "Disabled"] = "Max"
    tolerance: float = 0.1


# Kubernetes' defaults of `spec.behavior`.
DEFAULT_UP = Behavior(0.0, (Policy("Percent", 100, 15.0), Policy("Pods", 4, 15.0)))
DEFAULT_DOWN = Behavior(300.0, (Policy("Percent", 100, 15.0),))


@dataclass(frozen=True, slots=True)
class Trigger:
    """A metric query, and its target value per replica."""

    query: str
    target: float
    activation: float = 0.0


@dataclass(frozen=True, slots=True)
class Settings:
    """Settings of an autoscaler. Polling and cooldown are KEDA's; an HPA alone never scales below one replica."""

    min_replicas: int
    max_replicas: int
    triggers: tuple[Trigger, ...]
    up: Behavior = DEFAULT_UP
    down: Behavior = DEFAULT_DOWN
    keda: bool = True
    polling_seconds: float = 30.0
    cooldown_seconds: float = 300.0


@dataclass(slots=True)
class Autoscaler:
    """Autoscaler of a service. Call `sync` every SYNC_SECONDS and `poll` every `polling_seconds`."""

    settings: Settings
    _recommendations: deque[tuple[float, int]] = field(default_factory=deque)
    _added: deque[tuple[float, int]] = field(default_factory=deque)
    _removed: deque[tuple[float, int]] = field(default_factory=deque)
    _active_at: float = -math.inf

    def sync(self, now: float, current: int, values: Sequence[float]) -> int:
        """Replicas desired by the HPA, given the current ones and the value of each trigger."""
        settings = self.settings
        minimum = max(1, settings.min_replicas) if settings.keda else settings.min_replicas
        if current == 0:
            return 0  # an HPA is disabled while its target is scaled to zero
        if not minimum <= current <= settings.max_replicas:
            wanted = min(max(current, minimum), settings.max_replicas)
        else:
            wanted = self._stabilized(now, current, self._from_metrics(current, values))
            wanted = min(max(self._limited(now, current, wanted), minimum), settings.max_replicas)
        self._note(now, current, wanted)
        return wanted

    def poll(self, now: float, current: int, values: Sequence[float]) -> int:
        """Replicas desired by KEDA, which scales from zero when a trigger is active, and to zero after the cooldown."""
        settings = self.settings
        if not settings.keda:
            return current
        if any(value > trigger.activation for value, trigger in zip(values, settings.triggers, strict=True)):
            self._active_at = now
            if current == 0:
                return max(1, settings.min_replicas)
        elif settings.min_replicas == 0 and current > 0 and now - self._active_at > settings.cooldown_seconds:
            self._recommendations.clear()
            return 0
        return current

    def _from_metrics(self, current: int, values: Sequence[float]) -> int:
        """The maximum over all triggers. Targets are AverageValues, so queries are compared per replica."""
        recommendations = []
        for value, trigger in zip(values, self.settings.triggers, strict=True):
            ratio = value / (trigger.target * current)
            side = self.settings.up if ratio > 1 else self.settings.down
            within = abs(ratio - 1) <= side.tolerance
            recommendations.append(current if within else math.ceil(round(value / trigger.target, 9)))
        return max(recommendations)

    def _stabilized(self, now: float, current: int, wanted: int) -> int:
        """Stabilized: up to the minimum, down to the maximum of the recommendations within the window."""
        up, down = self.settings.up.stabilization_seconds, self.settings.down.stabilization_seconds
        while self._recommendations and self._recommendations[0][0] < now - max(up, down):
            self._recommendations.popleft()
        minimum = min((count for at, count in self._recommendations if at >= now - up), default=wanted)
        highest = max((count for at, count in self._recommendations if at >= now - down), default=wanted)
        self._recommendations.append((now, wanted))
        return min(max(current, min(minimum, wanted)), max(highest, wanted))

    def _limited(self, now: float, current: int, wanted: int) -> int:
        """`wanted`, limited by the policies."""
        if wanted > current:
            return min(wanted, max(current, self._limit(now, current, self.settings.up, up=True)))
        if wanted < current:
            return max(wanted, min(current, self._limit(now, current, self.settings.down, up=False)))
        return current

    def _limit(self, now: float, current: int, side: Behavior, *, up: bool) -> int:
        if side.select == "Disabled":
            return current
        limits = []
        for policy in side.policies:
            since = now - policy.period_seconds
            at_start = current - _sum_since(self._added, since) + _sum_since(self._removed, since)
            if policy.kind == "Pods":
                limits.append(at_start + policy.value if up else at_start - policy.value)
            elif up:
                limits.append(math.ceil(at_start * (1 + policy.value / 100)))
            else:
                limits.append(math.floor(at_start * (1 - policy.value / 100)))
        # Max selects the largest change: the highest limit when scaling up, the lowest when scaling down.
        return max(limits) if up == (side.select == "Max") else min(limits)

    def _note(self, now: float, current: int, wanted: int) -> None:
        if wanted > current:
            self._added.append((now, wanted - current))
        elif wanted < current:
            self._removed.append((now, current - wanted))
        longest = max((p.period_seconds for p in (*self.settings.up.policies, *self.settings.down.policies)), default=0)
        for events in (self._added, self._removed):
            while events and events[0][0] < now - longest:
                events.popleft()


def _sum_since(events: deque[tuple[float, int]], since: float) -> int:
    return sum(count for at, count in events if at > since)
