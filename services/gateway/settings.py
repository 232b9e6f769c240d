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
    """`text` where it names services alone. Raises ValueError."""
    if unknown := [name for name in _names(text) if name not in NAMES]:
        raise ValueError(f"{unknown[0]!r} is none of {', '.join(NAMES)}")
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
    """HTTP gateway of Lyra: OpenAI's API in front of the four model services."""

    port: int = Field(default=8000, ge=0, le=65535, description="Port to listen on; 0 takes a free one.")
    preset: str = Field(
        default="nano", description='Preset that the services run; the API calls it the model "lyra-<preset>".'
    )
    docs: bool = Field(default=True, description="Whether /docs and /openapi.json are served, without a key.")

    speech_encoder_address: ServiceAddress = Field(
        default="127.0.0.1:50051",
        description="Address of the speech encoder: host:port, or its replicas as dns:///name:port or "
        "IP:port,IP:port, among which calls are spread.",
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
        description="Services, with commas between, that the gateway is ready without, because they may be scaled to "
        f"zero: {', '.join(NAMES)}.",
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
        description="Largest request body in bytes; half an hour of 16 kHz WAV in base64 is 77 MB.",
    )
    max_json_bytes: int = Field(
        default=2**20,
        ge=1024,
        le=8 * 2**20,
        description="Largest body in bytes that carries no media, and most that one with media has beside them: what "
        "is no unbroken base64. JSON of 1 MiB takes the gateway at most 0.1 s and 30 MiB to read.",
    )
    max_bodies_bytes: int = Field(
        default=256 * 2**20,
        ge=1024,
        description="Most bytes of request bodies held at the same time, three quarters of them for one tenant at "
        "most; more get 429.",
    )
    max_arriving: int = Field(
        default=256,
        ge=1,
        description="Requests whose body is still on its way, three quarters of them of one tenant at most; more get "
        "429. A request takes its place among those that are worked on once its body is complete.",
    )
    body_seconds: float = Field(
        default=60.0, gt=0, description="Seconds that a client may take to send its request body."
    )
    min_body_bytes_per_second: float = Field(
        default=1024.0,
        gt=0,
        description="Bytes a second at which bodies and uploads have to arrive, on average over the time that they are "
        "waited for; slower ones get 408.",
    )
    body_grace_seconds: float = Field(
        default=10.0, gt=0, description="Seconds that are waited for a body before its rate counts."
    )
    max_messages: int = Field(default=256, ge=1, description="Most messages in a conversation.")
    max_parts: int = Field(default=32, ge=1, description="Most content parts in one message.")
    max_media: int = Field(default=16, ge=0, description="Most recordings, pictures and videos in one request.")
    max_text_characters: int = Field(
        default=500_000,
        ge=1,
        le=1_000_000,
        description="Most characters of text in one request, all messages together.",
    )
    max_running: int = Field(default=64, ge=1, description="Requests worked on at the same time; more get 429.")
    max_running_per_tenant: int = Field(
        default=0,
        ge=0,
        description="Requests of one tenant worked on at the same time; more of its own get 429, and others get in. "
        "0 for three quarters of all.",
    )
    max_uploads: int = Field(
        default=8, ge=1, description="Files taken in at the same time, of about 24 MB of memory each; more get 429."
    )
    max_uploads_per_tenant: int = Field(
        default=0, ge=0, description="Files of one tenant taken in at the same time. 0 for three quarters of all."
    )
    upload_idle_seconds: float = Field(
        default=30.0, gt=0, description="Seconds between two pieces of a file that is uploaded."
    )

    max_connections: int = Field(
        default=2000,
        ge=1,
        description="Connections of clients at the same time. One more takes the place of the one that is idle for "
        "longest; where none is idle it gets 503.",
    )
    max_connections_per_address: int = Field(
        default=1000,
        ge=0,
        description="Connections from one address at the same time; more get 429. Behind a proxy or load balancer that "
        "is the proxy's own address, for all of its clients. 0 for no limit.",
    )
    max_idle_connections: int = Field(
        default=500,
        ge=1,
        description="Connections without a request at the same time; one more ends the one that is idle for longest.",
    )
    header_seconds: float = Field(
        default=10.0,
        gt=0,
        description="Seconds that the TLS handshake may take, and then the headers of a request, from the connection's "
        "first moment or the first byte of a later request.",
    )
    idle_seconds: float = Field(
        default=75.0,
        gt=0,
        description="Seconds after which a connection that waits for its next request is closed; longer than a proxy "
        "in front keeps its own.",
    )
    write_seconds: float = Field(
        default=60.0,
        gt=0,
        description="Seconds after which a client that does not read its answer is cut off, and the answer given up: "
        "it has taken nothing for so long, or not the 48 KiB that wait for it.",
    )

    gateway_tls_cert_file: Path | None = Field(
        default=None,
        description="PEM file with the gateway's certificate and those between it and the root. With it and its key "
        "the gateway speaks HTTPS alone, TLS 1.2 or later. Both files are read anew when they change.",
    )
    gateway_tls_key_file: Path | None = Field(
        default=None, description="PEM file with the private key of that certificate, not encrypted."
    )

    job_event_seconds: float = Field(
        default=1.0, gt=0, description="Seconds between two looks at a job whose events somebody watches."
    )

    @model_validator(mode="after")
    def _certificate_and_key(self) -> Self:
        if (self.gateway_tls_cert_file is None) != (self.gateway_tls_key_file is None):
            raise ValueError("LYRA_GATEWAY_TLS_CERT_FILE and LYRA_GATEWAY_TLS_KEY_FILE go together")
        return self

    @property
    def scheme(self) -> Literal["http", "https"]:
        """Of the gateway's URL."""
        return "http" if self.gateway_tls_cert_file is None else "https"

    @property
    def dispensable(self) -> frozenset[str]:
        """Services that the gateway is ready without."""
        return frozenset(_names(self.ready_without))

    @property
    def model(self) -> str:
        """The model's id in the API."""
        return f"lyra-{self.preset}"

    def addresses(self) -> dict[str, str]:
        """Address of each service, by its name in the pipeline."""
        return {
            SPEECH_ENCODER: self.speech_encoder_address,
            VISION_ENCODER: self.vision_encoder_address,
            LANGUAGE_MODEL: self.language_model_address,
            SPEECH_SYNTHESIZER: self.speech_synthesizer_address,
        }
