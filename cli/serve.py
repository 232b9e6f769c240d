"""`lyra serve`: runs the whole stack on this machine in the foreground."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli.connection import lyra_home
from cli.console import err, note, out
from cli.failure import CommandFailed
from cli.presets import CheckpointOption, PresetOption
from cli.weights import pull_missing_weights

if TYPE_CHECKING:
    from services.operations.local.stack import Stack


_START_SECONDS = 300.0  # generous, for busy machines: a process that fails is noticed immediately


@contextmanager
def running_stack(
    preset: str, host: str, port: int, *, whole: bool, checkpoint: Path | None = None
) -> Iterator["Stack"]:
    """A ready stack, stopped on exit. Pulls missing weights first.

    Args:
        preset: Weights to run.
        host, port: Address of the gateway; port 0 selects a free one.
        whole: Whether to run stores and workers for long-audio jobs and to announce the stack to other commands.
        checkpoint: Folder of a checkpoint, for presets that require one.

    Raises:
        CommandFailed: It cannot start; the message contains the end of the relevant log.
    """
    from model_core.presets import WeightSource, get_preset
    from services.operations.local.process import StackError
    from services.operations.local.stack import CLOCK, GATEWAY, SERVICES, STORES, WORKERS, Stack, StackRunning

    if get_preset(preset).weights is WeightSource.CHECKPOINT and checkpoint is None:
        raise typer.BadParameter(
            f"preset {preset} requires the folder of a checkpoint", param_hint="--checkpoint (LYRA_CHECKPOINT)"
        )
    pull_missing_weights(preset)
    stack = Stack(
        preset=preset, checkpoint=checkpoint, home=lyra_home(), host=host, port=port, announce=whole, jobs=whole
    )
    waiting = [*((*STORES, *WORKERS, CLOCK) if whole else ()), *SERVICES, GATEWAY]
    try:
        with err.status(_waiting_for(waiting)) as status:

            def show(name: str) -> None:
                waiting[:] = [each for each in waiting if each != name]
                status.update(_waiting_for(waiting))

            stack.start(_START_SECONDS, show)
    except StackRunning as error:
        raise CommandFailed(str(error), "use it, or stop it first") from error
    except StackError as error:
        raise CommandFailed(str(error), f"see the logs in {stack.log_dir}") from error
    try:
        for warning in stack.warnings:
            note(warning)
        yield stack
    finally:
        with err.status("stopping"):
            stack.stop()


def _waiting_for(names: list[str]) -> str:
    return f"starting: {', '.join(name.replace('_', ' ') for name in names)}"


def serve(
    preset: PresetOption = "nano",
    checkpoint: CheckpointOption = None,
    host: Annotated[
        str, typer.Option(help="Address of the gateway. Anything but loopback exposes it to your network.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port of the gateway; 0 selects a free one.")] = 8000,
) -> None:
    """Run the whole stack on this machine until Ctrl-C: model services, gateway, workers, object store and Redis.

    The stores keep their data in LYRA_HOME. Set LYRA_STORE_ENDPOINT and LYRA_REDIS_URL to use others instead.

    \b
    Examples:
      lyra serve
      lyra serve --port 9000
      lyra serve --preset base --checkpoint ~/Lyra_Base_9B
      lyra serve --preset tiny --port 0     random weights, to try the API quickly
    """
    stop = threading.Event()
    with running_stack(preset, host, port, whole=True, checkpoint=checkpoint) as stack:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, lambda *_: stop.set())
        out.print(f"Lyra ({preset}) is running at [bold]{stack.url}[/]   (Ctrl-C to stop)", soft_wrap=True)
        out.print(f"  key   {stack.key}", soft_wrap=True)
        out.print(f"  docs  {stack.url}/docs", soft_wrap=True)
        out.print('  try   lyra ask "What is a prime number?" --out answer.wav', soft_wrap=True)
        out.print(f"  logs  {stack.log_dir}", soft_wrap=True)
        stack.supervise(stop, note)
