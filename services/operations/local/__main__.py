"""`python -m services.operations.local`: runs the local stack in the foreground until Ctrl-C."""

import signal
import sys
import threading
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, Field

from model_core.presets import get_preset
from services.operations.local.process import StackError
from services.operations.local.stack import Stack
from services.shared import settings
from services.shared.settings import ProcessSettings


def _known_preset(name: str) -> str:
    return get_preset(name).name


class LocalSettings(ProcessSettings):
    """The local stack: model services, workers, stores and gateway, each in its own process."""

    port: int = Field(default=8000, ge=0, le=65535, description="Port of the gateway; 0 selects a free one.")
    preset: Annotated[str, AfterValidator(_known_preset)] = Field(default="nano", description="Weights to run.")
    checkpoint: Path | None = Field(
        default=None, description="Folder of a checkpoint in the published layout, for presets that run one."
    )
    threads: int = Field(
        default=0, ge=0, description="CPU threads of each service's model; 0 for all cores of this machine."
    )


def main() -> int:
    """Runs the local stack. Returns the exit code."""
    loaded = settings.load(LocalSettings, "python -m services.operations.local")
    return serve(
        Stack(
            preset=loaded.preset,
            checkpoint=loaded.checkpoint,
            home=loaded.home,
            host=loaded.host,
            port=loaded.port,
            threads=loaded.threads,
            grace_seconds=loaded.grace_seconds,
        )
    )


def serve(stack: Stack) -> int:
    """Runs `stack` until SIGINT, SIGTERM or SIGHUP and restarts processes that exit. Returns the exit code."""
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: stop.set())
    try:
        with stack:
            print(f"{stack.url}\nkey: {stack.key}", flush=True)
            stack.supervise(stop, lambda line: print(line, file=sys.stderr, flush=True))
    except StackError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
