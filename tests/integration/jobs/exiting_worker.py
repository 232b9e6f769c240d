"""`python -m tests.integration.jobs.exiting_worker`: a worker whose pool processes stop halfway through exiting.

On SIGUSR2, a pool process closes the pipe by which the worker sees that it exits, and lives on.
"""

import inspect
import os
import signal
import sys
from typing import Any

from celery import signals

from services.worker.__main__ import main


def _exit_halfway_on_signal(**_: Any) -> None:
    frame = inspect.currentframe()
    while frame is not None and "child_w" not in frame.f_locals:  # billiard's Popen._launch, which has forked
        frame = frame.f_back
    assert frame is not None
    pipe = frame.f_locals["child_w"]
    signal.signal(signal.SIGUSR2, lambda *_: os.close(pipe))


if __name__ == "__main__":
    signals.worker_process_init.connect(_exit_halfway_on_signal, weak=False)
    sys.exit(main())
