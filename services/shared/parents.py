"""Processes that must not outlive the one that made them."""

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


def end_with_parent(parent: int) -> None:
    """The kernel kills this process as soon as the thread that made it ends; on Linux alone.

    Args:
        parent: Process id of the parent, which may have ended already.

    Raises:
        OSError: the kernel does not do it.
        SystemExit: the parent has ended.
    """
    if sys.platform != "linux":
        return
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG) failed")
    if os.getppid() != parent:
        sys.exit("the parent ended before this process began")
