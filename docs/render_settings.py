"""Renders docs/settings.md from the settings classes themselves: `make docs`."""

from pathlib import Path
from typing import Any

from pydantic import SecretStr
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings

from services.gateway.settings import GatewaySettings
from services.language_model.settings import LanguageModelSettings
from services.shared.jobs.settings import JobSettings
from services.shared.media.settings import MediaSettings
from services.shared.outbound.settings import OutboundSettings
from services.shared.sandbox.settings import DecoderSettings, VisionLimits
from services.shared.settings import ProcessSettings, ServiceAccessSettings, ServiceSettings
from services.shared.storage.settings import StoreSettings
from services.shared.webhooks.settings import WebhookSettings
from services.speech_encoder.settings import SpeechEncoderSettings
from services.speech_synthesizer.settings import SpeechSynthesizerSettings
from services.vision_encoder.settings import VisionEncoderSettings
from services.worker.settings import WorkerSettings

TARGET = Path(__file__).parent / "settings.md"

_INTRODUCTION = """\
# Settings

Rendered by `make docs` from the settings classes; edit those, not this file.

Settings are read from the command line (`--max-waiting 8`), then from the environment (`LYRA_MAX_WAITING=8`); otherwise
the default applies. With an invalid value, a process exits with code 2 and names the setting. `python -m services.NAME
--help` shows the same tables.

The commands of `lyra` read three variables: `LYRA_HOME` (folder of weights, keys and run files), `LYRA_URL` and
`LYRA_API_KEY` (the gateway to use instead of the local stack).
"""

_LONG_AUDIO = (StoreSettings, JobSettings, WebhookSettings, OutboundSettings)
_BOTH = "Read by the gateway and the workers; set the same values for both."

# Title, readers, class, and classes whose settings are in other sections.
_SECTIONS: tuple[tuple[str, str, type[BaseSettings], tuple[type[BaseSettings], ...]], ...] = (
    ("Every process", "", ProcessSettings, ()),
    (
        "Between services",
        "Read by the model services, the gateway and the workers; also by `lyra adapters`, together with "
        "`LYRA_OPERATOR_TOKEN_FILE`.",
        ServiceAccessSettings,
        (),
    ),
    ("Every model service", "", ServiceSettings, (ProcessSettings, ServiceAccessSettings)),
    (
        "Speech encoder",
        "`python -m services.speech_encoder`",
        SpeechEncoderSettings,
        (ServiceSettings, DecoderSettings),
    ),
    ("Vision encoder", "`python -m services.vision_encoder`", VisionEncoderSettings, (ServiceSettings, VisionLimits)),
    ("Language model", "`python -m services.language_model`", LanguageModelSettings, (ServiceSettings,)),
    ("Speech synthesizer", "`python -m services.speech_synthesizer`", SpeechSynthesizerSettings, (ServiceSettings,)),
    (
        "Gateway",
        "`python -m services.gateway`",
        GatewaySettings,
        (ProcessSettings, ServiceAccessSettings, MediaSettings, *_LONG_AUDIO),
    ),
    (
        "Workers of long-audio jobs",
        "`python -m services.worker`, and `python -m services.worker.clock`, which schedules periodic tasks.",
        WorkerSettings,
        (ProcessSettings, ServiceAccessSettings, MediaSettings, *_LONG_AUDIO),
    ),
    ("Object store", _BOTH, StoreSettings, ()),
    ("Media", _BOTH, MediaSettings, (StoreSettings, VisionLimits)),
    (
        "Decoding users' media",
        "Read by the gateway, the workers, the speech encoder and the vision encoder, independently of each other.",
        DecoderSettings,
        (),
    ),
    (
        "Pictures and videos",
        "Read by the gateway and the vision encoder; set the same values for both, so that uploads can be used.",
        VisionLimits,
        (DecoderSettings,),
    ),
    ("Jobs", _BOTH, JobSettings, (StoreSettings,)),
    ("Callbacks", f"{_BOTH} `lyra webhooks` reads the first one, too.", WebhookSettings, ()),
    ("Outbound requests", _BOTH, OutboundSettings, ()),
)


def render() -> str:
    """The whole page."""
    sections = [_section(*section) for section in _SECTIONS]
    return "\n".join([_INTRODUCTION, *sections])


def _section(title: str, readers: str, settings: type[BaseSettings], elsewhere: tuple[type[BaseSettings], ...]) -> str:
    known = [base.model_fields for base in elsewhere]
    rows = [
        f"| `LYRA_{name.upper()}` | {_default(name, field)} | {field.description} |"
        for name, field in settings.model_fields.items()
        if all(name not in fields or _differs(field, fields[name]) for fields in known)
    ]
    head = [f"## {title}", ""]
    if readers:
        head += [readers, ""]
    return "\n".join([*head, "| variable | default | meaning |", "| --- | --- | --- |", *rows, ""])


def _differs(field: FieldInfo, inherited: FieldInfo) -> bool:
    return (field.default, field.description) != (inherited.default, inherited.description)


def _default(name: str, field: FieldInfo) -> str:
    if name == "home":
        return "`$LYRA_HOME` or `~/.cache/lyra`"
    value: Any = field.default
    if isinstance(value, SecretStr):
        value = value.get_secret_value()
    return "none" if value in (None, "") else f"`{value}`"


if __name__ == "__main__":
    TARGET.write_text(render())
