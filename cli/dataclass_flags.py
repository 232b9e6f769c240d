"""Command-line flags from the fields of dataclasses: one list of options, in the code that uses them.

A field with `help` in its metadata is a flag with the field's type, default and name. Further metadata: `flag`, another
name for the flag; `parse`, a function from the text of a tuple's element to its value; `part`, which is the dataclass's
own. Everything else is passed to `typer.Option`.
"""

import inspect
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, Field, fields
from typing import Annotated, Any, get_args, get_origin

import typer

_NOT_FOR_TYPER = frozenset({"flag", "parse", "part"})


def parameters(cls: type) -> list[inspect.Parameter]:
    """Keyword parameters for Typer, one for each flag of a dataclass, in order."""
    return [_parameter(each) for each in _flags(cls)]


def field_values(cls: type, given: Mapping[str, Any]) -> dict[str, Any]:
    """The constructor arguments of a dataclass from the values that Typer parsed for its flags; lists become tuples.

    Raises:
        Whatever `parse` of a field raises.
    """
    return {each.name: _value(each, given[_parameter_name(each)]) for each in _flags(cls)}


def _flags(cls: Any) -> Iterator[Field[Any]]:
    return (each for each in fields(cls) if "help" in each.metadata)


def _parameter(each: Field[Any]) -> inspect.Parameter:
    names = [each.metadata["flag"]] if "flag" in each.metadata else []
    settings = {key: value for key, value in each.metadata.items() if key not in _NOT_FOR_TYPER}
    annotation: Any = each.type
    default = inspect.Parameter.empty if each.default is MISSING else each.default
    if get_origin(annotation) is tuple:
        element = str if "parse" in each.metadata else get_args(annotation)[0]
        required = default is inspect.Parameter.empty
        annotation, default = (list[element], default) if required else (list[element] | None, None)  # type: ignore[valid-type]
    annotated = Annotated[annotation, typer.Option(*names, **settings)]
    return inspect.Parameter(
        _parameter_name(each), inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotated
    )


def _parameter_name(each: Field[Any]) -> str:
    """`--lora-rank` -> `lora_rank`; of `--bf16/--fp32` the first."""
    flag: str = each.metadata.get("flag", each.name)
    return flag.partition("/")[0].removeprefix("--").replace("-", "_")


def _value(each: Field[Any], given: Any) -> Any:
    if get_origin(each.type) is not tuple:
        return given
    return tuple(map(each.metadata.get("parse", lambda value: value), given or ()))
