"""Settings: one documented class per process, read from its command line and from `LYRA_...` variables.

`load(SpeechEncoderSettings, "python -m services.speech_encoder")` adds `--help`, and errors that name the variable.
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
    """Folder of weights, keys and run files: $LYRA_HOME, or ~/.cache/lyra."""
    return Path(os.environ.get("LYRA_HOME") or Path.home() / ".cache" / "lyra")


def is_loopback(host: str) -> bool:
    """Whether an address can only be reached from this machine."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


# Shared by all settings classes: where base classes differ, pydantic uses the last one's configuration.
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
    """Settings of every process."""

    model_config = CONFIG

    host: str = Field(default="127.0.0.1", description="Address to listen on; only loopback by default.")
    port: int = Field(default=0, ge=0, le=65535, description="Port to listen on; 0 selects a free one.")
    port_file: Path | None = Field(
        default=None, description='File to write {"port", "metrics_port", "pid"} to (JSON) once the ports are open.'
    )
    home: Path = Field(default_factory=default_home, description="Folder of weights, keys and run files.")
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="Minimum level that is logged."
    )
    log_format: Literal["console", "json"] = Field(
        default="console", description="Log format: console for people, json for machines."
    )
    grace_seconds: float = Field(
        default=30.0, ge=0, description="Seconds that running requests may take to finish after SIGTERM or SIGINT."
    )


class ServiceAccessSettings(BaseSettings):
    """Authentication between the model services and their callers: a token, mutual TLS, or both."""

    model_config = CONFIG

    service_token_file: Path | None = Field(
        default=None,
        description="File of the token that callers send and services require. One token per line: callers send the "
        "first, services accept all, so that a token can be rotated. Reloaded when it changes.",
    )
    service_tls_cert_file: Path | None = Field(
        default=None,
        description="Certificate of this process (PEM, with the chain). Together with key and CA, enables mutual TLS "
        "between services. Reloaded when one of the three files changes.",
    )
    service_tls_key_file: Path | None = Field(default=None, description="Private key of that certificate (PEM).")
    service_tls_ca_file: Path | None = Field(
        default=None,
        description="CA certificates that both sides' certificates must be signed by (PEM); use a CA for Lyra only.",
    )
    service_tls_name: str = Field(
        default="",
        description="Name expected in the certificates of services, if it is not the host in their address.",
    )

    @model_validator(mode="after")
    def _whole_certificates(self) -> Self:
        names = ("service_tls_cert_file", "service_tls_key_file", "service_tls_ca_file")
        missing = [f"LYRA_{name.upper()}" for name in names if getattr(self, name) is None]
        if 0 < len(missing) < len(names):
            raise ValueError(f"mutual TLS requires a certificate, a key and a CA: {' and '.join(missing)} not set")
        return self


class ServiceSettings(ProcessSettings, ServiceAccessSettings):
    """Settings of every model service."""

    preset: str = Field(
        default="nano",
        description="Weights to run: nano (small, packaged); mini, base, pro, llama3 (from a checkpoint); "
        "tiny and others (random, for tests).",
    )
    checkpoint: Path | None = Field(
        default=None,
        description="Folder of a checkpoint in the published layout, for presets that require one.",
    )
    device: str = Field(
        default="auto",
        pattern=r"^(auto|cpu|cuda(:\d+)?)$",
        description="Device of the model: cpu, cuda or cuda:N (an NVIDIA GPU); "
        "auto selects the first GPU, or the CPU if there is none.",
    )
    metrics_port: int = Field(
        default=0, ge=0, le=65535, description="HTTP port of Prometheus metrics; 0 selects a free one."
    )
    threads: int = Field(default=0, ge=0, description="CPU threads of the model; 0 for all cores of this machine.")
    max_message_bytes: int = Field(
        default=4 * 2**20, ge=2 * 2**20, description="Maximum size of a gRPC message in bytes, in both directions."
    )
    max_calls: int = Field(default=64, ge=1, description="Maximum concurrent calls, including waiting ones.")
    max_connection_seconds: float = Field(
        default=15.0,
        ge=0,
        description="Seconds after which clients are asked to reconnect, so that they find new replicas; calls in "
        "progress are not interrupted. 0 for never.",
    )
    default_deadline_seconds: float = Field(
        default=600.0, gt=0, description="Deadline in seconds of calls whose client sets none."
    )
    reflection: bool = Field(default=False, description="Whether to enable gRPC reflection, for tools such as grpcurl.")
    allow_insecure: bool = Field(
        default=False,
        validate_default=True,
        description="Whether to listen beyond loopback without a token or TLS, open to anyone who can reach the port.",
    )

    @field_validator("allow_insecure")
    @classmethod
    def _known_callers(cls, allowed: bool, others: ValidationInfo) -> bool:
        given = others.data
        known = given.get("service_token_file") or given.get("service_tls_cert_file")
        if not allowed and not known and not is_loopback(str(given.get("host", ""))):
            raise ValueError(
                f"anyone who can reach {given.get('host')} could use this service: set LYRA_SERVICE_TOKEN_FILE or the "
                "three LYRA_SERVICE_TLS_..._FILE; or LYRA_ALLOW_INSECURE=true if the network restricts access"
            )
        return allowed

    def thread_count(self) -> int:
        """CPU threads to use, at least 1."""
        return self.threads or len(os.sched_getaffinity(0))


class GatherSettings(BaseSettings):
    """What a model service has that computes for concurrent requests together."""

    model_config = CONFIG

    gather_milliseconds: float = Field(
        default=3.0,
        ge=0,
        le=1000,
        description="Milliseconds that a batch with room waits for requests that are on their way to it; "
        "a request that is alone in the service never waits.",
    )


class EncoderSettings(GatherSettings):
    """What the encoders have."""

    encoder_cache_mib: int = Field(
        default=64,
        ge=0,
        description="Capacity of the cache of tokens by content, in MiB: a recording or picture that the same tenant "
        "sends again is not encoded again; 0 turns it off.",
    )


class AdapterServiceSettings(ServiceSettings):
    """Settings of model services whose adapters can be loaded and unloaded at run time."""

    adapters_dir: Path | None = Field(
        default=None,
        description="Folder with a subfolder for each adapter that can be loaded; <home>/adapters by default.",
    )

    adapters: str | None = Field(
        default=None,
        description="Comma-separated names of adapters in that folder to load at startup. "
        "Changes made at run time are lost when the service restarts.",
    )

    operator_token_file: Path | None = Field(
        default=None,
        description="File of the operator's token, one per line, which is required to load and unload adapters at run "
        "time; without it, they cannot be. Reloaded when it changes.",
    )

    @property
    def adapters_folder(self) -> Path:
        """Folder of the adapters."""
        return self.adapters_dir or self.home / "adapters"

    @property
    def adapters_at_start(self) -> list[str]:
        """Names of the adapters to load before the first call."""
        return [name.strip() for name in self.adapters.split(",")] if self.adapters else []


SettingsT = TypeVar("SettingsT", bound=BaseSettings)


def load(settings: type[SettingsT], program: str, arguments: Sequence[str] | None = None) -> SettingsT:
    """Reads settings from `arguments` (the command line by default), then from the environment.

    Exits with code 2 and one line per error if a value is invalid, and with 0 after `--help`.
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
