"""One file and the child that decodes it, seen from the parent, which takes nothing that the child says on trust."""

import io
import json
import os
import signal
import sys
import tempfile
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from services.shared import telemetry
from services.shared.sandbox.cancellation import Cancellation, Cancelled
from services.shared.sandbox.pool import Child, Pool
from services.shared.sandbox.settings import MIB
from services.shared.sandbox.wire import READ_BYTES, READ_REQUEST, Broken, Kind, Late, Wire
from services.shared.service_errors import InvalidInput, Overloaded

log = telemetry.get_logger(__name__)

Source = bytes | Path | BinaryIO
Facts = dict[str, Any]

# Of a file that the parent reads: decoders go back and forth, but not without end.
_READS_OF_SIZE, _READS_BYTES = 8, 64 * MIB
_MAX_MESSAGE = 1_000


@dataclass(frozen=True, kw_only=True)
class Job:
    """What a child is to do.

    Attributes:
        task: Name of one of tasks.TASKS.
        arguments: Of the task.
        field: What errors call the file.
        seconds: That the parent waits for the child, and that one thread of the child may compute.
        threads: Threads that compute.
        max_bytes: Most bytes that come back.
    """

    task: str
    arguments: Facts
    field: str
    seconds: float
    threads: int = 1
    max_bytes: int = 0


class Undecodable(InvalidInput):
    """A file that ended its decoder, or would have: `reason` is crash, time or memory."""

    def __init__(self, field: str, reason: str, limit: str = "") -> None:
        super().__init__(field, f"cannot be decoded within the limit of {limit}" if limit else "cannot be decoded")
        self.reason = reason


class Lost(Exception):
    """The child ended by no fault of the file's that is known: with its zygote, or killed (`killed`) from outside."""

    def __init__(self, *, killed: bool) -> None:
        super().__init__("killed" if killed else "its zygote is gone")
        self.killed = killed


@dataclass(slots=True)
class _Opened:
    """A source as a child can read it: by a descriptor, or by asking."""

    size: int
    descriptor: int = -1
    file: BinaryIO | None = None


@dataclass(slots=True)
class Conversation:
    """One child's work on one source: iterate `items` once.

    Attributes:
        begun: Whether something has come back.
    """

    pool: Pool
    job: Job
    begun: bool = field(default=False, init=False)

    def items(self, source: Source, cancellation: Cancellation) -> Generator[tuple[Facts, bytearray], None, Facts]:
        """Facts and bytes of each item; returns the last facts.

        Raises:
            InvalidInput: the file cannot be decoded, or not within the limits.
            Lost: the child is gone, and another might do it.
            Cancelled: nobody waits any more.
            Unavailable: there is no child. What reading a binary file raises comes through.
        """
        with _opened(source, self.job.field) as opened:
            child = self.pool.take()
            done = False
            try:
                with cancellation.interrupting(child.interrupt):
                    result = yield from self._talk(child, opened)
                    done = True
                    return result
            except (Broken, Late) as error:
                if cancellation.cancelled:
                    raise Cancelled from error
                raise self._meaning(error, child) from error
            finally:
                self.pool.release(child, kill=not done)

    def _talk(self, child: Child, opened: _Opened) -> Generator[tuple[Facts, bytearray], None, Facts]:
        job, wire = self.job, Wire(child.connection, self.job.seconds)
        header = {
            "task": job.task,
            "arguments": job.arguments,
            "bytes": opened.size,
            "processor_seconds": job.seconds * job.threads,
        }
        wire.send(Kind.JOB, json.dumps(header).encode(), descriptor=opened.descriptor)
        left, reads = job.max_bytes, _READS_OF_SIZE * opened.size + _READS_BYTES
        while True:
            kind, data = wire.receive()
            match kind:
                case Kind.READ if opened.file is not None and len(data) == READ_REQUEST.size:
                    offset, length = READ_REQUEST.unpack(data)
                    reads -= length
                    if offset > opened.size or length > READ_BYTES or reads < 0:
                        raise Broken("it reads what is not there, or without end")
                    opened.file.seek(offset)
                    wire.send(Kind.DATA, opened.file.read(length))
                case Kind.ITEM:
                    facts = _facts(data)
                    length = facts.get("bytes")
                    if not isinstance(length, int) or not 0 <= length <= left:
                        raise Broken("more comes back than was asked for")
                    left -= length
                    item = wire.take(length)
                    self.begun = True
                    yield facts, item
                case Kind.RESULT:
                    return _facts(data)
                case Kind.ERROR:
                    raise self._told(_facts(data))
                case _:
                    raise Broken("a frame that does not belong here")

    def _told(self, facts: Facts) -> InvalidInput:
        """What the child says of a file that it could not decode."""
        if facts.get("limit") == "memory":
            return Undecodable(self.job.field, "memory", f"{self.pool.memory_bytes // MIB:,} MiB of memory")
        if isinstance(message := facts.get("message"), str):
            return InvalidInput(self.job.field, "".join(filter(str.isprintable, message[:_MAX_MESSAGE])))
        log.warning("a decoder met what it does not expect", task=self.job.task, reason=str(facts)[:_MAX_MESSAGE])
        return Undecodable(self.job.field, "crash")

    def _meaning(self, error: Broken | Late, child: Child) -> Exception:
        """Why a conversation ended before its time."""
        late = Undecodable(self.job.field, "time", f"{self.job.seconds:g} s")
        if isinstance(error, Late):
            return late
        child.interrupt()  # where it is still there, it does not keep to the protocol
        number = child.exit_signal()
        if number == signal.SIGXCPU:
            return late
        if not number or number == signal.SIGKILL:  # it did not crash: it went with its zygote, or was killed
            log.warning("a decoder was lost", task=self.job.task, status=child.status, reason=str(error))
            return Lost(killed=number is not None)
        log.warning("a decoder crashed", task=self.job.task, signal=number, reason=str(error))
        return Undecodable(self.job.field, "crash")


def outcome_of(error: BaseException | None) -> str:
    """How a job ended, in a word for the metric."""
    match error:
        case None | GeneratorExit():
            return "ok"
        case Undecodable():
            return error.reason
        case InvalidInput():
            return "refused"
        case Cancelled():
            return "cancelled"
        case Overloaded():
            return "overloaded"
        case _:
            return "failed"


def _facts(data: bytes) -> Facts:
    try:
        facts = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise Broken("facts that are no JSON") from error
    if not isinstance(facts, dict):
        raise Broken("facts that are no object")
    return facts


@contextmanager
def _opened(source: Source, field: str) -> Iterator[_Opened]:
    if isinstance(source, io.BytesIO):
        source = source.getvalue()
    if isinstance(source, bytes):
        with _memory_file() as file:
            file.write(source)
            file.flush()
            yield _Opened(len(source), file.fileno())
    elif isinstance(source, Path):
        try:
            opened = source.open("rb")
        except OSError as error:
            raise InvalidInput(field, "cannot be read") from error
        with opened:
            yield _Opened(opened.seek(0, io.SEEK_END), opened.fileno())
    else:
        yield _Opened(source.seek(0, io.SEEK_END), file=source)


def _memory_file() -> BinaryIO:
    """A file that has no name, in memory where the system can."""
    if sys.platform == "linux":
        return os.fdopen(os.memfd_create("media"), "w+b", buffering=0)
    return tempfile.TemporaryFile(buffering=0)
