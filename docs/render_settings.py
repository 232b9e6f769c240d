"""Renders docs/settings.md from the settings classes themselves: `make docs`."""

from pathlib import Path
from typing import Any

from pydantic.fields import FieldInfo

from services.common.settings import ProcessSettings, ServiceSettings
from services.gateway.settings import GatewaySettings
from services.language_model.settings import LanguageModelSettings
from services.speech_encoder.settings import SpeechEncoderSettings
from services.speech_synthesizer.settings import SpeechSynthesizerSettings
from services.vision_encoder.settings import VisionEncoderSettings

TARGET = Path(__file__).parent / "settings.md"

_INTRODUCTION = """\
# Settings

Rendered by `make docs` from the settings classes; edit those, not this file.

Every process reads its command line first (`--max-waiting 8`), then its environment (`LYRA_MAX_WAITING=8`), then takes
the default. A value that is not acceptable ends the process with code 2 and names the setting. `python -m services.NAME
--help` shows the same tables.

The commands of `lyra` read three variables of their own: `LYRA_HOME` (folder of weights, keys and run files),
`LYRA_URL` and `LYRA_API_KEY` (the gateway to speak to, where it is not the local stack).
"""

_SECTIONS: tuple[tuple[str, str, type[ProcessSettings], type[ProcessSettings] | None], ...] = (
    ("Every process", "", ProcessSettings, None),
    ("Every model service", "", ServiceSettings, ProcessSettings),
    ("Speech encoder", "services.speech_encoder", SpeechEncoderSettings, ServiceSettings),
    ("Vision encoder", "services.vision_encoder", VisionEncoderSettings, ServiceSettings),
    ("Language model", "services.language_model", LanguageModelSettings, ServiceSettings),
    ("Speech synthesizer", "services.speech_synthesizer", SpeechSynthesizerSettings, ServiceSettings),
    ("Gateway", "services.gateway", GatewaySettings, ProcessSettings),
)


def render() -> str:
    """The whole page."""
    sections = [_section(*section) for section in _SECTIONS]
    return "\n".join([_INTRODUCTION, *sections])


def _section(title: str, module: str, settings: type[ProcessSettings], base: type[ProcessSettings] | None) -> str:
    inherited = base.model_fields if base else {}
    rows = [
        f"| `LYRA_{name.upper()}` | {_default(name, field)} | {field.description} |"
        for name, field in settings.model_fields.items()
        if name not in inherited or _differs(field, inherited[name])
    ]
    head = [f"## {title}", ""]
    if module:
        head += [f"`python -m {module}`", ""]
    return "\n".join([*head, "| variable | default | meaning |", "| --- | --- | --- |", *rows, ""])


def _differs(field: FieldInfo, inherited: FieldInfo) -> bool:
    return (field.default, field.description) != (inherited.default, inherited.description)


def _default(name: str, field: FieldInfo) -> str:
    if name == "home":
        return "`$LYRA_HOME` or `~/.cache/lyra`"
    value: Any = field.default
    if value is None:
        return "none"
    return f"`{value}`"


if __name__ == "__main__":
    TARGET.write_text(render())
