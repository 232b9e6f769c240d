"""The pods of one service: they start, receive calls in turn, drain and terminate."""

import heapq
from dataclasses import dataclass, field


@dataclass(slots=True, eq=False)
class Pod:
    """A pod. `free` is a heap of the times at which its slots become free."""

    created: float
    ready: float
    free: list[float]
    leaving: bool = False

    @property
    def done(self) -> float:
        """Time at which its last call ends."""
        return max(self.free)


@dataclass(slots=True)
class Fleet:
    """The pods of a service. Calls are sent to ready pods round robin, as by gRPC, and queue at their pod.

    Attributes:
        start_seconds: Time from the creation of a pod to its first call.
        slots: Calls that a pod processes at the same time.
        gpus: GPUs of a pod.
    """

    start_seconds: float
    slots: int
    gpus: float
    pods: list[Pod] = field(default_factory=list)
    gpu_seconds: float = 0.0
    waits: list[float] = field(default_factory=list)
    unserved: int = 0
    served: int = 0
    _turn: int = 0
    _open: list[tuple[float, float, float]] = field(default_factory=list)  # start, end, seconds of audio

    @property
    def replicas(self) -> int:
        """Desired replicas: pods that are starting or ready."""
        return sum(not pod.leaving for pod in self.pods)

    def ready_pods(self, now: float) -> list[Pod]:
        return [pod for pod in self.pods if not pod.leaving and pod.ready <= now]

    def scale(self, now: float, wanted: int, *, at_once: bool = False) -> None:
        """Adds pods, or removes the youngest, as a ReplicaSet does; these finish their calls."""
        for _ in range(wanted - self.replicas):
            ready = now if at_once else now + self.start_seconds
            self.pods.append(Pod(now, ready, [ready] * self.slots))
        staying = [pod for pod in self.pods if not pod.leaving]
        for pod in sorted(staying, key=lambda pod: -pod.ready)[: max(0, len(staying) - wanted)]:
            pod.leaving = True
            if pod.ready > now:  # it has not received a call
                pod.free = [now]
        self.clean(now)

    def clean(self, now: float) -> None:
        """Accounts for pods that have terminated, and removes them."""
        for pod in [pod for pod in self.pods if pod.leaving and pod.done <= now]:
            self.gpu_seconds += self.gpus * (max(pod.done, pod.created) - pod.created)
            self.pods.remove(pod)
        self._open = [each for each in self._open if each[1] > now]

    def finish(self, now: float) -> None:
        """Accounts for the remaining pods at the end."""
        for pod in self.pods:
            self.gpu_seconds += self.gpus * (now - pod.created)
        self.pods.clear()

    def call(
        self, now: float, seconds: float, *, audio_seconds: float = 0.0, delay: float = 0.0, interactive: bool = True
    ) -> float | None:
        """Sends a call to the next pod in turn. Returns when it starts to be processed; None if no pod is ready.

        Args:
            now: Time of the call.
            seconds: Processing time.
            audio_seconds: Seconds of audio in the call, for the metric.
            delay: Seconds until the current step of background work ends.
            interactive: Whether a user waits for it.
        """
        ready = self.ready_pods(now)
        if not ready:
            self.unserved += 1
            return None
        self._turn += 1
        self.served += 1
        pod = ready[self._turn % len(ready)]
        begins = max(now + delay, pod.free[0])
        heapq.heapreplace(pod.free, begins + seconds)
        self._open.append((begins, begins + seconds, audio_seconds))
        if interactive:
            self.waits.append(begins - now)
        return begins

    def idle_seconds(self, begin: float, end: float) -> float:
        """Seconds within an interval in which ready pods process no calls, summed over the pods."""
        return sum(max(0.0, end - max(begin, pod.free[0])) for pod in self.ready_pods(begin))

    def running(self, now: float) -> int:
        return sum(begins <= now < ends for begins, ends, _ in self._open)

    def waiting(self, now: float) -> int:
        return sum(begins > now for begins, _, _ in self._open)

    def audio_seconds(self, now: float) -> float:
        return sum(audio for _, ends, audio in self._open if ends > now)
