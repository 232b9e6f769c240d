"""The parent's side of the processes: starts and restarts the zygote, keeps spare children, and reaps them."""

import os
import socket
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from services.shared import telemetry
from services.shared.sandbox.wire import CHILD, FORK, KILL, NOTICE, READY, REQUEST
from services.shared.service_errors import Unavailable

log = telemetry.get_logger(__name__)

MODULE = "services.shared.sandbox.zygote"
RESERVE = 2  # spare children

_START_SECONDS = 60.0  # generous, for a busy machine
_RETRY_SECONDS = 1.0
_STATUS_SECONDS = 5.0
_STABLE_SECONDS = 5.0  # a zygote that ran this long is restarted without back-off
_MAX_BACKOFF_SECONDS = 10.0
# The variables that Python needs; others may hold secrets.
_VARIABLES = ("PATH", "LD_LIBRARY_PATH", "LANG", "LC_ALL", "PYTHONDONTWRITEBYTECODE", "PYTHONHOME")
# One thread and one memory arena, because reserved address space counts towards the limit.
_SINGLE = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "1"}


class Child:
    """A process that waits for a file or decodes it."""

    def __init__(self, pid: int, connection: socket.socket, zygote: "_Zygote") -> None:
        self.pid = pid
        self.connection = connection
        self.status: int | None = None  # wait status, once it has exited
        self.zygote = zygote
        self.gone = threading.Event()  # it has exited, or its status is unknown for good

    def interrupt(self) -> None:
        """Kills it; a thread that waits for it gets a WireError."""
        self.zygote.send(KILL, self.pid)
        with suppress(OSError):
            self.connection.shutdown(socket.SHUT_RDWR)

    def exit_signal(self) -> int | None:
        """The signal that killed it, 0 if none did; None if that is unknown because the zygote has exited, too."""
        self.gone.wait(_STATUS_SECONDS)
        return None if self.status is None else os.WTERMSIG(self.status) if os.WIFSIGNALED(self.status) else 0


class _Zygote:
    """The zygote's process, and the socket to it."""

    def __init__(self, memory_bytes: int) -> None:
        self._control, theirs = socket.socketpair()
        self._lock = threading.Lock()
        self.children: dict[int, Child] = {}
        environment = {name: os.environ[name] for name in _VARIABLES if name in os.environ}
        environment |= _SINGLE | {"PYTHONPATH": os.pathsep.join(path or str(Path.cwd()) for path in sys.path)}
        command = [sys.executable, "-P", "-m", MODULE, str(theirs.fileno()), str(memory_bytes)]
        with theirs:
            self.process = subprocess.Popen(
                command,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                start_new_session=True,  # signals from a terminal are for the parent only
            )

    def send(self, kind: bytes, pid: int = 0) -> None:
        """Sends a request, unless the zygote has exited."""
        with self._lock, suppress(OSError):
            self._control.sendall(REQUEST.pack(kind, pid))

    def notices(self) -> Iterator[tuple[bytes, int, int, int | None]]:
        """Yields its notices until it exits: kind, process id, status, and a descriptor if one was sent."""
        while True:
            try:
                data, descriptors, _, _ = socket.recv_fds(self._control, NOTICE.size, 1)
                while 0 < len(data) < NOTICE.size:
                    more = self._control.recv(NOTICE.size - len(data))
                    data = data + more if more else b""
            except OSError:
                return
            if not data:
                return
            kind, pid, status = NOTICE.unpack(data)
            yield kind, pid, status, descriptors[0] if descriptors else None

    def end(self) -> None:
        """Ends it, and its children with it."""
        with suppress(OSError):
            self._control.shutdown(socket.SHUT_RDWR)

    def reap(self) -> None:
        """Releases its resources after its last notice."""
        self.process.kill()
        self.process.wait()
        with self._lock:
            self._control.close()
        for child in self.children.values():
            child.gone.set()
        self.children.clear()


class Pool:
    """Children of a zygote, one per file, some of them spare. May be shared by threads.

    Args:
        memory_bytes: Memory limit of a child.
        reserve: Spare children.
    """

    def __init__(self, memory_bytes: int, reserve: int = RESERVE) -> None:
        self.memory_bytes = memory_bytes
        self._reserve = reserve
        self._changed = threading.Condition()
        self._idle: deque[Child] = deque()
        self._requested = 0
        self._zygote: _Zygote | None = None
        self._thread: threading.Thread | None = None
        self._closed = False

    @property
    def zygote_pid(self) -> int | None:
        """Process id of the zygote; None if there is none at the moment."""
        zygote = self._zygote
        return None if zygote is None else zygote.process.pid

    @property
    def idle(self) -> tuple[Child, ...]:
        """Spare children."""
        with self._changed:
            return tuple(self._idle)

    def start(self) -> None:
        """Starts creating children in advance of the first `take`. Idempotent."""
        with self._changed:
            if self._thread is None and not self._closed:
                self._thread = threading.Thread(target=self._supervise, name="decoders", daemon=True)
                self._thread.start()

    def close(self) -> None:
        """Ends all processes; running work fails."""
        with self._changed:
            self._closed = True
            if self._zygote is not None:
                self._zygote.end()
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join()

    def take(self) -> Child:
        """Takes a child for one file; pass it to `release` afterwards. Raises Unavailable if none can be created."""
        self.start()
        deadline = time.monotonic() + _START_SECONDS
        with self._changed:
            while not self._idle:
                if self._closed or time.monotonic() > deadline:
                    raise Unavailable("decoder", "no decoder process can be created")
                self._top_up()
                if not self._changed.wait(_RETRY_SECONDS):
                    self._requested = 0  # requests may have been lost
            return self._idle.popleft()

    def release(self, child: Child, *, kill: bool) -> None:
        """Lets go of a child that is done, or kills it."""
        if kill:
            child.interrupt()
        child.connection.close()
        with self._changed:
            self._top_up()

    def _top_up(self) -> None:
        if self._zygote is None or self._closed:
            return
        for _ in range(self._reserve - len(self._idle) - self._requested):
            self._zygote.send(FORK)
            self._requested += 1

    def _supervise(self) -> None:
        backoff = 0.0
        while not self._closed:
            began = time.monotonic()
            try:
                zygote = _Zygote(self.memory_bytes)
                self._follow(zygote)
            except OSError as error:
                log.error("decoders cannot be started", reason=str(error))
            if self._closed:
                return
            lived = time.monotonic() - began
            backoff = 0.0 if lived > _STABLE_SECONDS else min(_MAX_BACKOFF_SECONDS, 2 * backoff or 0.1)
            log.warning("the decoders' zygote exited and is restarted", after_seconds=round(lived, 1))
            with self._changed:
                self._changed.wait_for(lambda: self._closed, backoff)

    def _follow(self, zygote: _Zygote) -> None:
        """Handles the zygote's notices until it exits."""
        try:
            if self._closed:
                return
            for kind, pid, status, descriptor in zygote.notices():
                with self._changed:
                    if self._closed:
                        zygote.end()
                    self._note(zygote, kind, pid, status, descriptor)
                    self._changed.notify_all()
        finally:
            with self._changed:
                self._zygote = None
                self._requested = 0
                for child in self._idle:
                    child.connection.close()
                self._idle.clear()
            zygote.reap()

    def _note(self, zygote: _Zygote, kind: bytes, pid: int, status: int, descriptor: int | None) -> None:
        if kind == READY:
            self._zygote = zygote
            if not status:
                log.warning("decoders run without a system call filter: this system does not support it")
        elif kind == CHILD and descriptor is not None:
            self._requested = max(0, self._requested - 1)
            child = zygote.children[pid] = Child(pid, socket.socket(fileno=descriptor), zygote)
            self._idle.append(child)
        elif pid in zygote.children:
            child = zygote.children.pop(pid)
            child.status = status
            child.gone.set()
            if child in self._idle:
                self._idle.remove(child)
                child.connection.close()
        self._top_up()
