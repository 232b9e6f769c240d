"""How a command fails: one line that says what went wrong, one that says what to do, exit code 1."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import typer
from typer.core import TyperGroup

from cli.console import show_failure


class CommandFailed(Exception):
    """A command cannot do what it was asked for.

    Args:
        message: What went wrong.
        hint: What to do next; may be empty where the message says it.
    """

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class Commands(TyperGroup):
    """A group whose commands end with code 1 and a plain line where they raise CommandFailed or lack a package."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except CommandFailed as failure:
            show_failure(failure.message, failure.hint)
            raise typer.Exit(1) from failure
        except ModuleNotFoundError as error:  # the image of gateway and workers holds no models
            show_failure(f"this command wants {error.name}, which is not installed here", "use a full installation")
            raise typer.Exit(1) from error


@contextmanager
def model_failures() -> Iterator[None]:
    """Turns what model code raises about weights and input into CommandFailed, about presets into wrong use."""
    from model_core.errors import InvalidInput, UnknownPreset, WeightsMissing

    try:
        yield
    except UnknownPreset as error:
        raise typer.BadParameter(str(error)) from error
    except (WeightsMissing, InvalidInput) as error:
        raise CommandFailed(str(error)) from error
