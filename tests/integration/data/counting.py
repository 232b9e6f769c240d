"""A data set of numbers that any process can build quickly, for tests of builds."""

import os
import signal
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from model_core.data.build.work import BuildContext, Dropped, Spec, rng_of
from model_core.data.conversation import Conversation, Turn
from model_core.language.messages import Role


@dataclass(frozen=True, slots=True, kw_only=True)
class CountingSpec(Spec):
    """Conversations about numbers.

    Args:
        count: Number of planned samples.
        origin: Origin recorded in the manifest.
    """

    kind: ClassVar[str] = "instruct"

    count: int = 20
    origin: str = "numbers"
    shard_samples: int = 4

    def open(self, context: BuildContext) -> "Counting":
        return Counting(self, context)


class Counting:
    """Drops every seventh sample. Failures are set by the environment, which is not part of the spec:

    COUNTING_KILL: at this number the process ends as by kill -9, unless that happened before.
    COUNTING_WAIT: at this number the process writes its id to the file COUNTING_PID and waits for ever.
    """

    def __init__(self, spec: CountingSpec, context: BuildContext) -> None:
        self._spec, self._context = spec, context
        self.samples = spec.count
        self.origins = {"numbers": spec.origin}

    def prepare(self) -> None:
        (self._context.scratch / "prepared").write_text("yes")

    def make(self, numbers: range) -> Iterator[Conversation | Dropped]:
        assert (self._context.scratch / "prepared").is_file()
        for number in numbers:
            if os.environ.get("COUNTING_KILL") == str(number):
                os.kill(os.getpid(), signal.SIGKILL)
            if os.environ.get("COUNTING_WAIT") == str(number):
                Path(os.environ["COUNTING_PID"]).write_text(str(os.getpid()))
                threading.Event().wait()
            if number % 7 == 6:
                yield Dropped(f"number-{number}", "seventh", "is a seventh one")
            else:
                drawn = rng_of(self._spec.seed, number).random()
                turns = (Turn(role=Role.USER, text=f"{number}?"), Turn(role=Role.ASSISTANT, text=str(drawn)))
                yield Conversation(id=f"number-{number}", turns=turns, source="numbers")
