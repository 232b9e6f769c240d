"""Settings of the gateway: `LYRA_...` variables or flags, see `python -m services.gateway --help`."""

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from services.gateway.http.access_settings import AccessSettings
from services.shared.jobs.settings import JobSettings
from services.shared.media.settings import MediaSettings
from services.shared.outbound.settings import OutboundSettings
from services.shared.pipeline.clients import LANGUAGE_MODEL, NAMES, SPEECH_ENCODER, SPEECH_SYNTHESIZER, VISION_ENCODER
from services.shared.rpc.channels import ServiceAddress
from services.shared.settings import ProcessSettings, ServiceAccessSettings
from services.shared.webhooks.settings import WebhookSettings


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def _known(text: str) -> str:
    """Validates that `text` lists services only. Raises ValueError."""
    if unknown := [name for name in _names(text) if name not in NAMES]:
        raise ValueError(f"{unknown[0]!r} is not one of {', '.join(NAMES)}")
    return text


ServiceNames = Annotated[str, AfterValidator(_known)]


class GatewaySettings(
    ProcessSettings,
    ServiceAccessSettings,
    AccessSettings,
    MediaSettings,
    JobSettings,
    WebhookSettings,
    OutboundSettings,
):
    """HTTP gateway of Lyra: an OpenAI-compatible API in front of the four model services."""

    port: int = Field(default=8000, ge=0, le=65535, description="Port to listen on; 0 selects a free one.")
    preset: str = Field(
        default="nano", description='Preset that the services run; its model id in the API is "lyra-<preset>".'
    )
    docs: bool = Field(default=True, description="Whether /docs and /openapi.json are served, without a key.")

    speech_encoder_address: ServiceAddress = Field(
        default="127.0.0.1:50051",
        description="Address of the speech encoder: host:port, or dns:///name:port or IP:port,IP:port for replicas to "
        "balance over.",
    )
    vision_encoder_address: ServiceAddress = Field(
        default="127.0.0.1:50052", description="Address of the vision encoder."
    )
    language_model_address: ServiceAddress = Field(
        default="127.0.0.1:50053", description="Address of the language model."
    )
    speech_synthesizer_address: ServiceAddress = Field(
        default="127.0.0.1:50054", description="Address of the speech synthesizer."
    )

    ready_without: ServiceNames = Field(
        default="",
        description="Comma-separated services that readiness does not require, because they may be scaled to zero: "
        f"{', '.join(NAMES)}.",
    )

    encode_seconds: float = Field(
        default=120.0, gt=0, description="Seconds that encoding one recording, picture or video may take."
    )
    transcribe_seconds: float = Field(default=900.0, gt=0, description="Seconds that a transcript may take.")
    answer_seconds: float = Field(
        default=900.0, gt=0, description="Seconds that an answer, or speaking a text, may take."
    )

    max_body_bytes: int = Field(
        default=96 * 2**20,
        ge=1024,
        description="Maximum size of a request body in bytes; half an hour of 16 kHz WAV in base64 is 77 MB.",
    )
    max_json_bytes: int = Field(
        default=2**20,
        ge=1024,
        le=8 * 2**20,
        description="Maximum size in bytes of a body without media, and of everything but the base64 data in one with "
        "media. Reading 1 MiB of JSON takes the gateway up to 0.1 s and 30 MiB.",
    )
    max_bodies_bytes: int = Field(
        default=256 * 2**20,
        ge=1024,
        description="Maximum bytes of request bodies in memory, of which one tenant may hold three quarters; beyond "
        "it, 429.",
    )
    max_arriving: int = Field(
        default=256,
        ge=1,
        description="Maximum requests whose body is incomplete, of which one tenant may have three quarters; beyond "
        "it, 429. They count towards max_running once the body is complete.",
    )
    body_seconds: float = Field(
        default=60.0, gt=0, description="Seconds that a client may take to send a request body."
    )
    min_body_bytes_per_second: float = Field(
        default=1024.0,
        gt=0,
        description="Minimum rate of bodies and uploads in bytes per second, averaged over the time spent waiting for "
        "them; slower ones get 408.",
    )
    body_grace_seconds: float = Field(
        default=10.0, gt=0, description="Seconds of waiting for a body before the minimum rate applies."
    )
    max_messages: int = Field(default=256, ge=1, description="Maximum number of messages in a conversation.")
    max_parts: int = Field(default=32, ge=1, description="Maximum number of content parts in a message.")
    max_media: int = Field(
        default=16, ge=0, description="Maximum number of recordings, pictures and videos in a request."
    )
    max_text_characters: int = Field(
        default=500_000,
        ge=1,
        le=1_000_000,
        description="Maximum characters of text in a request, all messages together.",
    )
    max_running: int = Field(default=64, ge=1, description="Maximum requests running at the same time; beyond it, 429.")
    max_running_per_tenant: int = Field(
        default=0,
        ge=0,
        description="Maximum requests of one tenant running at the same time; beyond it, 429. 0 for three quarters of "
        "max_running.",
    )
    max_uploads: int = Field(
        default=8, ge=1, description="Maximum uploads at the same time, about 24 MB of memory each; beyond it, 429."
    )
    max_uploads_per_tenant: int = Field(
        default=0,
        ge=0,
        description="Maximum uploads of one tenant at the same time. 0 for three quarters of max_uploads.",
    )
    upload_idle_seconds: float = Field(
        default=30.0, gt=0, description="Seconds without data after which an upload times out."
    )

    max_connections: int = Field(
        default=2000,
        ge=1,
        description="Maximum client connections. One more replaces the connection that has been idle longest; if none "
        "is idle, it gets 503.",
    )
    max_connections_per_address: int = Field(
        default=1000,
        ge=0,
        description="Maximum connections from one address; beyond it, 429. Behind a proxy or load balancer, all "
        "clients share the address of the proxy. 0 for no limit.",
    )
    max_idle_connections: int = Field(
        default=500,
        ge=1,
        description="Maximum idle connections; one more closes the one that has been idle longest.",
    )
    header_seconds: float = Field(
        default=10.0,
        gt=0,
        description="Seconds that the TLS handshake may take, and then the headers of a request, from the start of the "
        "connection or the first byte of a later request.",
    )
    idle_seconds: float = Field(
        default=75.0,
        gt=0,
        description="Keep-alive timeout in seconds; longer than that of a proxy in front.",
    )
    write_seconds: float = Field(
        default=60.0,
        gt=0,
        description="Seconds after which a client that does not read its response is disconnected and the request "
        "cancelled: it has read nothing for so long, or not the 48 KiB that are buffered.",
    )

    gateway_tls_cert_file: Path | None = Field(
        default=None,
        description="PEM file with the gateway's certificate and intermediates. With it and its key the gateway serves "
        "HTTPS only, TLS 1.2 or later. Both files are reloaded when they change.",
    )
    gateway_tls_key_file: Path | None = Field(
        default=None, description="PEM file with the private key of that certificate, not encrypted."
    )

    job_event_seconds: float = Field(
        default=1.0, gt=0, description="Seconds between two polls of a job whose events are streamed."
    )

    @model_validator(mode="after")
    def _certificate_and_key(self) -> Self:
        if (self.gateway_tls_cert_file is None) != (self.gateway_tls_key_file is None):
            raise ValueError("LYRA_GATEWAY_TLS_CERT_FILE and LYRA_GATEWAY_TLS_KEY_FILE have to be set together")
        return self

    @property
    def scheme(self) -> Literal["http", "https"]:
        """Scheme of the gateway's URL."""
        return "http" if self.gateway_tls_cert_file is None else "https"

    @property
    def optional_services(self) -> frozenset[str]:
        """Services that readiness does not require."""
        return frozenset(_names(self.ready_without))

    @property
    def model(self) -> str:
        """Id of the model in the API."""
        return f"lyra-{self.preset}"

    def addresses(self) -> dict[str, str]:
        """Addresses by the services' names in the pipeline."""
        return {
            SPEECH_ENCODER: self.speech_encoder_address,
            VISION_ENCODER: self.vision_encoder_address,
            LANGUAGE_MODEL: self.language_model_address,
            SPEECH_SYNTHESIZER: self.speech_synthesizer_address,
        }
