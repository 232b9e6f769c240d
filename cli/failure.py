"""How a command fails: a line with the error, a line with a hint, exit code 1."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import typer
from typer.core import TyperGroup

from cli.console import show_failure


class CommandFailed(Exception):
    """A command failed.

    Args:
        message: What went wrong.
        hint: What to do next; may be empty.
    """

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class Commands(TyperGroup):
    """A group whose commands exit with code 1 and an error line on CommandFailed or a missing package."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except CommandFailed as failure:
            show_failure(failure.message, failure.hint)
            raise typer.Exit(1) from failure
        except ModuleNotFoundError as error:  # the image of gateway and workers holds no models
            show_failure(f"this command requires {error.name}, which is not installed", "use a full installation")
            raise typer.Exit(1) from error


@contextmanager
def model_failures() -> Iterator[None]:
    """Turns model code's errors about weights and input into CommandFailed, about presets into usage errors."""
    from model_core.errors import InvalidInput, UnknownPreset, WeightsMissing

    try:
        yield
    except UnknownPreset as error:
        raise typer.BadParameter(str(error)) from error
    except (WeightsMissing, InvalidInput) as error:
        raise CommandFailed(str(error)) from error
