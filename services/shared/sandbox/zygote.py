"""`python -m services.shared.sandbox.zygote`: imports the decoders once and forks a child for each file.

It exits when its parent closes the socket between them. It never reads users' files itself.
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
from services.shared.sandbox.limits import limit_permanently
from services.shared.sandbox.warm_up import warm_up
from services.shared.sandbox.wire import CHILD, FORK, GONE, NOTICE, READY, REQUEST

_MAX_DESCRIPTORS = 256
_SEND_BYTES = 2**20  # send buffer of a child, as far as the system allows


class Zygote:
    """Forks, kills and reaps children on request.

    Args:
        control: Socket to the parent.
        memory_bytes: Memory limit of a child.
        filtered: Whether this system supports the system call filter.
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
        """Returns when the parent has closed the socket."""
        control = self._control.fileno()
        while True:
            ready, _, _ = select.select([control, self._wake], [], [])
            if self._wake in ready:
                with suppress(BlockingIOError):
                    os.read(self._wake, 4_096)
                self._reap()
            if control in ready and not self._handle_request():
                return

    def _handle_request(self) -> bool:
        """Handles one request; False if the parent has closed the socket."""
        request = self._control.recv(REQUEST.size, socket.MSG_WAITALL)
        if len(request) < REQUEST.size:
            return False
        kind, pid = REQUEST.unpack(request)
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
        except OSError as error:  # the parent retries
            print(f"decoders: fork failed: {error}", file=sys.stderr)
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
        os.closerange(connection.fileno() + 1, _MAX_DESCRIPTORS)
        limit_permanently(parent=parent, memory_bytes=self._memory_bytes)
        serve(connection, filtered=self._filtered)

    def _reap(self) -> None:
        while self._children:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if not pid:
                return
            self._children.discard(pid)
            self._control.sendall(NOTICE.pack(GONE, pid, status))


def has_filter() -> bool:
    """Whether the system call filter works here: tested in a child, which must not be able to create a socket."""
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
    """Command-line arguments: descriptor of the control socket, memory limit of a child in bytes."""
    control, memory_bytes = socket.socket(fileno=int(sys.argv[1])), int(sys.argv[2])
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # while the parent drains, it may still need decoders
    warm_up()
    filtered = has_filter()
    # Children share this memory copy on write, and a collection would write to all of it.
    gc.collect()
    gc.freeze()
    gc.disable()
    with suppress(BrokenPipeError, ConnectionResetError):
        control.sendall(NOTICE.pack(READY, 0, int(filtered)))
        Zygote(control, memory_bytes, filtered=filtered).run()
    os._exit(0)


if __name__ == "__main__":
    main()
