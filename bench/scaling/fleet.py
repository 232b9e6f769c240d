"""The pods of one service: they start, take calls in turn, work, drain and end."""

import heapq
from dataclasses import dataclass, field


@dataclass(slots=True, eq=False)
class Pod:
    """`free` are the moments from which each of its places is free, a heap."""

    born: float
    ready: float
    free: list[float]
    leaving: bool = False

    @property
    def done(self) -> float:
        """When its last call ends."""
        return max(self.free)


@dataclass(slots=True)
class Fleet:
    """Calls go round the pods that are ready, and wait in line at the one they got, as with gRPC's round robin.

    Attributes:
        start_seconds: From the wish for a pod to its first call.
        places: Calls that a pod works on at the same time.
        gpus: Of a pod.
    """

    start_seconds: float
    places: int
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
        """Wanted ones: those that start and those that are ready."""
        return sum(not pod.leaving for pod in self.pods)

    def ready_pods(self, now: float) -> list[Pod]:
        return [pod for pod in self.pods if not pod.leaving and pod.ready <= now]

    def scale(self, now: float, wanted: int, *, at_once: bool = False) -> None:
        """Adds pods, or lets the youngest go, which finish what they have (as a ReplicaSet chooses)."""
        for _ in range(wanted - self.replicas):
            ready = now if at_once else now + self.start_seconds
            self.pods.append(Pod(now, ready, [ready] * self.places))
        staying = [pod for pod in self.pods if not pod.leaving]
        for pod in sorted(staying, key=lambda pod: -pod.ready)[: max(0, len(staying) - wanted)]:
            pod.leaving = True
            if pod.ready > now:  # it has never had a call
                pod.free = [now]
        self.clean(now)

    def clean(self, now: float) -> None:
        """Counts and forgets pods that have left."""
        for pod in [pod for pod in self.pods if pod.leaving and pod.done <= now]:
            self.gpu_seconds += self.gpus * (max(pod.done, pod.born) - pod.born)
            self.pods.remove(pod)
        self._open = [each for each in self._open if each[1] > now]

    def finish(self, now: float) -> None:
        """Counts what is still there at the end."""
        for pod in self.pods:
            self.gpu_seconds += self.gpus * (now - pod.born)
        self.pods.clear()

    def call(
        self, now: float, seconds: float, *, audio_seconds: float = 0.0, behind: float = 0.0, counts: bool = True
    ) -> float | None:
        """Gives a call to the next pod in turn. Returns when its work begins; None where no pod is ready.

        Args:
            now: When it comes.
            seconds: Of work.
            audio_seconds: That it brings, for the metric.
            behind: Seconds of a step of other work that it finds under way.
            counts: Whether somebody waits for it.
        """
        ready = self.ready_pods(now)
        if not ready:
            self.unserved += 1
            return None
        self._turn += 1
        self.served += 1
        pod = ready[self._turn % len(ready)]
        begins = max(now + behind, pod.free[0])
        heapq.heapreplace(pod.free, begins + seconds)
        self._open.append((begins, begins + seconds, audio_seconds))
        if counts:
            self.waits.append(begins - now)
        return begins

    def idle_seconds(self, begin: float, end: float) -> float:
        """Seconds between two moments that ready pods have nothing to do for calls."""
        return sum(max(0.0, end - max(begin, pod.free[0])) for pod in self.ready_pods(begin))

    def running(self, now: float) -> int:
        return sum(begins <= now < ends for begins, ends, _ in self._open)

    def waiting(self, now: float) -> int:
        return sum(begins > now for begins, _, _ in self._open)

    def audio_seconds(self, now: float) -> float:
        return sum(audio for _, ends, audio in self._open if ends > now)
