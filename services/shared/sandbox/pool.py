"""The parent's side of the processes: starts the zygote and starts it again, keeps children in reserve, buries them."""

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
RESERVE = 2  # children that wait for files

_START_SECONDS = 60.0  # for a machine that is busy with other things
_ASK_AGAIN_SECONDS = 1.0
_STATUS_SECONDS = 5.0
_STABLE_SECONDS = 5.0  # a zygote that lived this long is replaced at once
_MAX_BACKOFF_SECONDS = 10.0
# Of the parent's variables those that a Python needs; the others hold secrets.
_VARIABLES = ("PATH", "LD_LIBRARY_PATH", "LANG", "LC_ALL", "PYTHONDONTWRITEBYTECODE", "PYTHONHOME")
# One thread and one arena of memory: what is reserved counts as taken.
_SINGLE = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "1"}


class Child:
    """A process that waits for a file, or decodes it."""

    def __init__(self, pid: int, connection: socket.socket, zygote: "_Zygote") -> None:
        self.pid = pid
        self.connection = connection
        self.status: int | None = None  # exit status as the system has it, once it is gone
        self.zygote = zygote
        self.gone = threading.Event()  # it ended, or nobody can say any more

    def interrupt(self) -> None:
        """Ends it; whoever waits for it, in another thread, finds it gone."""
        self.zygote.order(KILL, self.pid)
        with suppress(OSError):
            self.connection.shutdown(socket.SHUT_RDWR)

    def exit_signal(self) -> int | None:
        """The signal that has ended it, 0 where none has; None where nobody can say, the zygote being gone too."""
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
                start_new_session=True,  # what a terminal sends to the parent's group is the parent's
            )

    def order(self, kind: bytes, pid: int = 0) -> None:
        """Tells the zygote; one that is gone hears nothing."""
        with self._lock, suppress(OSError):
            self._control.sendall(REQUEST.pack(kind, pid))

    def notices(self) -> Iterator[tuple[bytes, int, int, int | None]]:
        """What it tells, until it is gone: kind, process id, status, and a descriptor where one came along."""
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
        """Ends it, and with it its children."""
        with suppress(OSError):
            self._control.shutdown(socket.SHUT_RDWR)

    def bury(self) -> None:
        """After its last notice: frees what it held."""
        self.process.kill()
        self.process.wait()
        with self._lock:
            self._control.close()
        for child in self.children.values():
            child.gone.set()
        self.children.clear()


class Pool:
    """Children of a zygote, one for each file, some of them in reserve. Shared by threads.

    Args:
        memory_bytes: That a child may take.
        reserve: Children that wait for files.
    """

    def __init__(self, memory_bytes: int, reserve: int = RESERVE) -> None:
        self.memory_bytes = memory_bytes
        self._reserve = reserve
        self._changed = threading.Condition()
        self._idle: deque[Child] = deque()
        self._ordered = 0
        self._zygote: _Zygote | None = None
        self._thread: threading.Thread | None = None
        self._closed = False

    @property
    def zygote_pid(self) -> int | None:
        """Of the zygote; None where there is none at the moment."""
        zygote = self._zygote
        return None if zygote is None else zygote.process.pid

    @property
    def idle(self) -> tuple[Child, ...]:
        """Children that wait for a file."""
        with self._changed:
            return tuple(self._idle)

    def start(self) -> None:
        """Begins to make children, so that the first file finds one; `take` does it too. Nothing happens again."""
        with self._changed:
            if self._thread is None and not self._closed:
                self._thread = threading.Thread(target=self._supervise, name="decoders", daemon=True)
                self._thread.start()

    def close(self) -> None:
        """Ends all processes; what still decodes fails."""
        with self._changed:
            self._closed = True
            if self._zygote is not None:
                self._zygote.end()
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join()

    def take(self) -> Child:
        """A child for one file, to be given back by `release`.

        Raises:
            Unavailable: none can be made.
        """
        self.start()
        deadline = time.monotonic() + _START_SECONDS
        with self._changed:
            while not self._idle:
                if self._closed or time.monotonic() > deadline:
                    raise Unavailable("decoder", "no process can be made that decodes files")
                self._top_up()
                if not self._changed.wait(_ASK_AGAIN_SECONDS):
                    self._ordered = 0  # what was ordered may be lost
            return self._idle.popleft()

    def release(self, child: Child, *, kill: bool) -> None:
        """Parts with a child that has done its work, or is to be ended in the middle of it."""
        if kill:
            child.interrupt()
        child.connection.close()
        with self._changed:
            self._top_up()

    def _top_up(self) -> None:
        if self._zygote is None or self._closed:
            return
        for _ in range(self._reserve - len(self._idle) - self._ordered):
            self._zygote.order(FORK)
            self._ordered += 1

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
            log.warning("the process that makes decoders ended; another is started", after_seconds=round(lived, 1))
            with self._changed:
                self._changed.wait_for(lambda: self._closed, backoff)

    def _follow(self, zygote: _Zygote) -> None:
        """Hears what the zygote tells until it is gone."""
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
                self._ordered = 0
                for child in self._idle:
                    child.connection.close()
                self._idle.clear()
            zygote.bury()

    def _note(self, zygote: _Zygote, kind: bytes, pid: int, status: int, descriptor: int | None) -> None:
        if kind == READY:
            self._zygote = zygote
            if not status:
                log.warning("decoders run without a filter of system calls: this system has none")
        elif kind == CHILD and descriptor is not None:
            self._ordered = max(0, self._ordered - 1)
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
