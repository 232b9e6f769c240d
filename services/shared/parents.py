"""Processes that must not outlive their parent."""

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


def exit_with_parent(parent: int) -> None:
    """Makes the kernel kill this process as soon as the thread that created it ends. Linux only.

    Args:
        parent: Process id of the parent, which may have exited already.

    Raises:
        OSError: The kernel does not support it.
        SystemExit: The parent has exited.
    """
    if sys.platform != "linux":
        return
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG) failed")
    if os.getppid() != parent:
        sys.exit("the parent exited before this process started")
