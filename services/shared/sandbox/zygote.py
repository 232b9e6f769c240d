"""`python -m services.shared.sandbox.zygote`: has imported the decoders once, and forks a child for each file.

Its parent speaks to it over a socket, whose end is its own end. It never reads what users sent.
"""

import gc
import os
import select
import signal
import socket
import sys
from contextlib import suppress
from typing import NoReturn

from services.shared.sandbox.child import serve
from services.shared.sandbox.filter import NoFilter, forbid_system_calls
from services.shared.sandbox.limits import limit_for_good
from services.shared.sandbox.warming import warm_up
from services.shared.sandbox.wire import CHILD, FORK, GONE, NOTICE, READY, REQUEST

_MOST_DESCRIPTORS = 256
_SEND_BYTES = 2**20  # what a child may be ahead of its reader, as far as the system allows


class Zygote:
    """Forks, kills and buries children as it is told.

    Args:
        control: Socket to the parent.
        memory_bytes: That a child may take.
        filtered: Whether this system has a filter of system calls.
    """

    def __init__(self, control: socket.socket, memory_bytes: int, *, filtered: bool) -> None:
        self._control = control
        self._memory_bytes = memory_bytes
        self._filtered = filtered
        self._children: set[int] = set()
        self._wake, write = os.pipe()
        os.set_blocking(self._wake, False)
        os.set_blocking(write, False)
        signal.set_wakeup_fd(write)
        signal.signal(signal.SIGCHLD, lambda number, frame: None)

    def run(self) -> None:
        """Returns when the parent is gone."""
        control = self._control.fileno()
        while True:
            ready, _, _ = select.select([control, self._wake], [], [])
            if self._wake in ready:
                with suppress(BlockingIOError):
                    os.read(self._wake, 4_096)
                self._bury()
            if control in ready and not self._obey():
                return

    def _obey(self) -> bool:
        """Does what the parent asks for; False where it is gone."""
        order = self._control.recv(REQUEST.size, socket.MSG_WAITALL)
        if len(order) < REQUEST.size:
            return False
        kind, pid = REQUEST.unpack(order)
        if kind == FORK:
            self._fork()
        elif pid in self._children:
            os.kill(pid, signal.SIGKILL)
        return True

    def _fork(self) -> None:
        ours, theirs = socket.socketpair()
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BYTES)
        parent = os.getpid()
        try:
            pid = os.fork()
        except OSError as error:  # the parent asks again
            print(f"decoders: no process can be made: {error}", file=sys.stderr)
            ours.close()
            theirs.close()
            return
        if pid == 0:
            try:
                self._become_child(ours, parent)
            finally:
                os._exit(1)
        ours.close()
        self._children.add(pid)
        with theirs:
            socket.send_fds(self._control, [NOTICE.pack(CHILD, pid, 0)], [theirs.fileno()])

    def _become_child(self, connection: socket.socket, parent: int) -> NoReturn:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        gc.enable()
        nothing = os.open(os.devnull, os.O_RDWR)
        for standard in (0, 1, 2):
            os.dup2(nothing, standard)
        os.closerange(3, connection.fileno())
        os.closerange(connection.fileno() + 1, _MOST_DESCRIPTORS)
        limit_for_good(parent=parent, memory_bytes=self._memory_bytes)
        serve(connection, filtered=self._filtered)

    def _bury(self) -> None:
        while self._children:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if not pid:
                return
            self._children.discard(pid)
            self._control.sendall(NOTICE.pack(GONE, pid, status))


def has_filter() -> bool:
    """Whether this system has a filter of system calls, tried in a child: no socket can be made behind it."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            forbid_system_calls()
            socket.socket()
        except NoFilter:
            code = 2
        except PermissionError:
            code = 0
        finally:
            os._exit(code)
    _, status = os.waitpid(pid, 0)
    return status == 0


def main() -> None:
    """Arguments: number of the control socket's descriptor, bytes of memory that a child may take."""
    control, memory_bytes = socket.socket(fileno=int(sys.argv[1])), int(sys.argv[2])
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # whoever stops the parent; what runs there may still need decoders
    warm_up()
    filtered = has_filter()
    # Children share what is here until they write to it, and a collection would write to all of it.
    gc.collect()
    gc.freeze()
    gc.disable()
    with suppress(BrokenPipeError, ConnectionResetError):
        control.sendall(NOTICE.pack(READY, 0, int(filtered)))
        Zygote(control, memory_bytes, filtered=filtered).run()
    os._exit(0)


if __name__ == "__main__":
    main()
