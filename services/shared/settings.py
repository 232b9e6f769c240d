"""Settings: one documented class a service, read from its command line and from `LYRA_...` variables.

`load(SpeechEncoderSettings, "python -m services.speech_encoder")` gives `--help`, and errors that name the variable.
"""

import ipaddress
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, Self, TypeVar

from pydantic import Field, ValidationError, ValidationInfo, field_validator, model_validator
from pydantic_settings import BaseSettings, CliApp, SettingsConfigDict, SettingsError


def default_home() -> Path:
    """Where weights, keys and run files lie: $LYRA_HOME, or ~/.cache/lyra."""
    return Path(os.environ.get("LYRA_HOME") or Path.home() / ".cache" / "lyra")


def is_loopback(host: str) -> bool:
    """Whether only processes of this machine reach what listens there."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


# For settings that others inherit beside their own, too: where bases differ, pydantic takes the last one's.
CONFIG = SettingsConfigDict(
    env_prefix="LYRA_",
    cli_kebab_case=True,
    cli_implicit_flags=True,
    cli_show_env_vars=True,
    cli_hide_none_type=True,
    cli_avoid_json=True,
    frozen=True,
    extra="ignore",
)


class ProcessSettings(BaseSettings):
    """What every process of the platform has."""

    model_config = CONFIG

    host: str = Field(default="127.0.0.1", description="Address to listen on; loopback unless told otherwise.")
    port: int = Field(default=0, ge=0, le=65535, description="Port to listen on; 0 takes a free one.")
    port_file: Path | None = Field(
        default=None, description='File to write {"port", "metrics_port", "pid"} to (JSON) once the ports are open.'
    )
    home: Path = Field(default_factory=default_home, description="Folder of weights, keys and run files.")
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="Least level that is logged."
    )
    log_format: Literal["console", "json"] = Field(
        default="console", description="Log lines for people or for machines."
    )
    grace_seconds: float = Field(
        default=30.0, ge=0, description="Seconds that running requests may take to finish after SIGTERM or SIGINT."
    )


class ServiceAccessSettings(BaseSettings):
    """How the model services and their callers know each other: by a token, by certificates, or by both."""

    model_config = CONFIG

    service_token_file: Path | None = Field(
        default=None,
        description="File of the token that callers show and services ask for. One a line: the first is shown, all are "
        "taken, so that a token can be replaced. Read again when it changes.",
    )
    service_tls_cert_file: Path | None = Field(
        default=None,
        description="Certificate of this process (PEM, with the chain). With key and CA calls between services use "
        "mutual TLS. Read again when one of the three changes.",
    )
    service_tls_key_file: Path | None = Field(default=None, description="Private key of that certificate (PEM).")
    service_tls_ca_file: Path | None = Field(
        default=None,
        description="Certificates of the authority that both sides must be signed by (PEM); one for Lyra alone.",
    )
    service_tls_name: str = Field(
        default="",
        description="Name that certificates of services are to have, where it is not the host in their address.",
    )

    @model_validator(mode="after")
    def _whole_certificates(self) -> Self:
        names = ("service_tls_cert_file", "service_tls_key_file", "service_tls_ca_file")
        missing = [f"LYRA_{name.upper()}" for name in names if getattr(self, name) is None]
        if 0 < len(missing) < len(names):
            raise ValueError(f"mutual TLS takes certificate, key and CA: {' and '.join(missing)} not set")
        return self


class ServiceSettings(ProcessSettings, ServiceAccessSettings):
    """What every model service has."""

    preset: str = Field(
        default="nano",
        description="Weights to run: nano (small, packaged); mini, base, pro, llama3 (from a checkpoint); "
        "tiny and others (random, for tests).",
    )
    checkpoint: Path | None = Field(
        default=None,
        description="Folder of a checkpoint in the published layout, for presets that run one.",
    )
    device: str = Field(
        default="auto",
        pattern=r"^(auto|cpu|cuda(:\d+)?)$",
        description="Where the model computes: cpu, cuda or cuda:N (an NVIDIA GPU); "
        "auto is the first GPU, or the CPU where there is none.",
    )
    metrics_port: int = Field(
        default=0, ge=0, le=65535, description="HTTP port of Prometheus metrics; 0 takes a free one."
    )
    threads: int = Field(default=0, ge=0, description="CPU threads of the model; 0 for every core of this machine.")
    max_message_bytes: int = Field(
        default=4 * 2**20, ge=2 * 2**20, description="Largest gRPC message in bytes, received or sent."
    )
    max_calls: int = Field(
        default=64, ge=1, description="Calls that may be open at the same time, waiting ones among them."
    )
    max_connection_seconds: float = Field(
        default=15.0,
        ge=0,
        description="Seconds after which a client is asked to connect anew, and so finds replicas that were added; "
        "its running calls end as they would. 0 for never.",
    )
    default_deadline_seconds: float = Field(
        default=600.0, gt=0, description="Seconds that a call may take when its client set no deadline."
    )
    reflection: bool = Field(
        default=False, description="Whether gRPC reflection tells the methods, for tools such as grpcurl."
    )
    allow_insecure: bool = Field(
        default=False,
        validate_default=True,
        description="Whether to listen beyond loopback without a token and without TLS, for whoever reaches the port.",
    )

    @field_validator("allow_insecure")
    @classmethod
    def _known_callers(cls, allowed: bool, others: ValidationInfo) -> bool:
        given = others.data
        known = given.get("service_token_file") or given.get("service_tls_cert_file")
        if not allowed and not known and not is_loopback(str(given.get("host", ""))):
            raise ValueError(
                f"whoever reaches {given.get('host')} could use this service: set LYRA_SERVICE_TOKEN_FILE or the three "
                "LYRA_SERVICE_TLS_..._FILE; or LYRA_ALLOW_INSECURE=true where the network keeps strangers away"
            )
        return allowed

    def thread_count(self) -> int:
        """CPU threads to use, at least 1."""
        return self.threads or len(os.sched_getaffinity(0))


class AdapterServiceSettings(ServiceSettings):
    """What a model service has whose adapters come and go at run time."""

    adapters_dir: Path | None = Field(
        default=None,
        description="Folder with a folder for each adapter that can be loaded at run time; <home>/adapters by default.",
    )

    adapters: str | None = Field(
        default=None,
        description="Names of adapters in that folder, with commas between, that are loaded at start. "
        "What is loaded or unloaded later is forgotten when the service starts again.",
    )

    operator_token_file: Path | None = Field(
        default=None,
        description="File of the token with which adapters are loaded and unloaded while the service runs, one a line; "
        "without it they cannot be. Read again when it changes.",
    )

    @property
    def adapters_folder(self) -> Path:
        """Where the adapters lie."""
        return self.adapters_dir or self.home / "adapters"

    @property
    def adapters_at_start(self) -> list[str]:
        """Names of the adapters to load before the first call comes."""
        return [name.strip() for name in self.adapters.split(",")] if self.adapters else []


SettingsT = TypeVar("SettingsT", bound=BaseSettings)


def load(settings: type[SettingsT], program: str, arguments: Sequence[str] | None = None) -> SettingsT:
    """Reads `settings` from `arguments` (the command line by default), then from the environment.

    Ends the process with code 2 and one line a mistake when a value is not acceptable, and with 0 after `--help`.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    config = {**settings.model_config, "cli_prog_name": program}
    named = type(
        settings.__name__,
        (settings,),
        {"model_config": config, "__doc__": settings.__doc__, "__module__": settings.__module__},
    )
    try:
        return CliApp.run(named, cli_args=given)
    except ValidationError as error:
        for mistake in error.errors():
            name = str(mistake["loc"][0]) if mistake["loc"] else "settings"
            flag = name.replace("_", "-")
            print(f"{program}: --{flag} (LYRA_{name.upper()}): {mistake['msg']}", file=sys.stderr)
    except SettingsError as error:
        print(f"{program}: {error}", file=sys.stderr)
    raise SystemExit(2)
