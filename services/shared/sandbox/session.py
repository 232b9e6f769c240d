"""The parent's side of decoding one file; nothing that the child sends is trusted."""

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
from services.shared.sandbox.wire import READ_BYTES, READ_REQUEST, Kind, Wire, WireError, WireTimeout
from services.shared.service_errors import InvalidInput, Overloaded

log = telemetry.get_logger(__name__)

Source = bytes | Path | BinaryIO
Facts = dict[str, Any]

# Limits of reads on request: decoders seek back and forth, but not forever.
_READS_OF_SIZE, _READS_BYTES = 8, 64 * MIB
_MAX_MESSAGE = 1_000


@dataclass(frozen=True, kw_only=True)
class Job:
    """A task for a child.

    Attributes:
        task: A key of tasks.TASKS.
        arguments: Arguments of the task.
        field: Name of the file in errors.
        seconds: Limit of the time that the parent waits, and of the processor time per thread.
        threads: Threads of the decoder.
        max_bytes: Limit of the bytes that the child sends back.
    """

    task: str
    arguments: Facts
    field: str
    seconds: float
    threads: int = 1
    max_bytes: int = 0


class Undecodable(InvalidInput):
    """A file that crashed its decoder or exceeded a limit: `reason` is crash, time or memory."""

    def __init__(self, field: str, reason: str, limit: str = "") -> None:
        super().__init__(field, f"cannot be decoded within the limit of {limit}" if limit else "cannot be decoded")
        self.reason = reason


class ChildLost(Exception):
    """The child ended for a reason unrelated to the file: with its zygote, or killed (`killed`) from outside."""

    def __init__(self, *, killed: bool) -> None:
        super().__init__("killed" if killed else "its zygote has exited")
        self.killed = killed


@dataclass(slots=True)
class _Opened:
    """A source for a child: a descriptor, or a file that the parent reads on request."""

    size: int
    descriptor: int = -1
    file: BinaryIO | None = None


@dataclass(slots=True)
class DecodingSession:
    """One child decoding one source. Iterate `items` once.

    Attributes:
        has_output: Whether the child has sent an item.
    """

    pool: Pool
    job: Job
    has_output: bool = field(default=False, init=False)

    def items(self, source: Source, cancellation: Cancellation) -> Generator[tuple[Facts, bytearray], None, Facts]:
        """Yields facts and bytes of each item; returns the final facts.

        Raises:
            InvalidInput: The file cannot be decoded, or not within the limits.
            ChildLost: The child is gone; another one may succeed.
            Cancelled: The work was cancelled.
            Unavailable: There is no child. Errors from reading a binary file are passed on.
        """
        with _opened(source, self.job.field) as opened:
            child = self.pool.take()
            done = False
            try:
                with cancellation.interrupting(child.interrupt):
                    result = yield from self._run(child, opened)
                    done = True
                    return result
            except (WireError, WireTimeout) as error:
                if cancellation.cancelled:
                    raise Cancelled from error
                raise self._translate(error, child) from error
            finally:
                self.pool.release(child, kill=not done)

    def _run(self, child: Child, opened: _Opened) -> Generator[tuple[Facts, bytearray], None, Facts]:
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
                        raise WireError("it reads beyond the end, or too much")
                    opened.file.seek(offset)
                    wire.send(Kind.DATA, opened.file.read(length))
                case Kind.ITEM:
                    facts = _facts(data)
                    length = facts.get("bytes")
                    if not isinstance(length, int) or not 0 <= length <= left:
                        raise WireError("it sends more than allowed")
                    left -= length
                    item = wire.take(length)
                    self.has_output = True
                    yield facts, item
                case Kind.RESULT:
                    return _facts(data)
                case Kind.ERROR:
                    raise self._reported_error(_facts(data))
                case _:
                    raise WireError("an unexpected frame")

    def _reported_error(self, facts: Facts) -> InvalidInput:
        """The error that the child reported."""
        if facts.get("limit") == "memory":
            return Undecodable(self.job.field, "memory", f"{self.pool.memory_bytes // MIB:,} MiB of memory")
        if isinstance(message := facts.get("message"), str):
            return InvalidInput(self.job.field, "".join(filter(str.isprintable, message[:_MAX_MESSAGE])))
        log.warning("a decoder failed unexpectedly", task=self.job.task, reason=str(facts)[:_MAX_MESSAGE])
        return Undecodable(self.job.field, "crash")

    def _translate(self, error: WireError | WireTimeout, child: Child) -> Exception:
        """Why the session ended early."""
        timed_out = Undecodable(self.job.field, "time", f"{self.job.seconds:g} s")
        if isinstance(error, WireTimeout):
            return timed_out
        child.interrupt()  # if it is still running, it violated the protocol
        number = child.exit_signal()
        if number == signal.SIGXCPU:
            return timed_out
        if not number or number == signal.SIGKILL:  # not a crash: it exited with its zygote, or was killed
            log.warning("a decoder was lost", task=self.job.task, status=child.status, reason=str(error))
            return ChildLost(killed=number is not None)
        log.warning("a decoder crashed", task=self.job.task, signal=number, reason=str(error))
        return Undecodable(self.job.field, "crash")


def outcome_of(error: BaseException | None) -> str:
    """Label of the metric for how a job ended."""
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
        raise WireError("facts are not JSON") from error
    if not isinstance(facts, dict):
        raise WireError("facts are not an object")
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
    """An anonymous file, in memory if the system supports that."""
    if sys.platform == "linux":
        return os.fdopen(os.memfd_create("media"), "w+b", buffering=0)
    return tempfile.TemporaryFile(buffering=0)
