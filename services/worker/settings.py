"""Settings of the workers: `LYRA_...` variables or flags, see `python -m services.worker --help`."""

from pydantic import Field

from services.shared.jobs.dispatch import Queue
from services.shared.jobs.settings import JobSettings
from services.shared.media.settings import MediaSettings
from services.shared.outbound.settings import OutboundSettings
from services.shared.pipeline.clients import LANGUAGE_MODEL, SPEECH_ENCODER
from services.shared.rpc.channels import ServiceAddress
from services.shared.settings import ProcessSettings, ServiceAccessSettings
from services.shared.webhooks.settings import WebhookSettings


class WorkerSettings(
    ProcessSettings, ServiceAccessSettings, MediaSettings, JobSettings, WebhookSettings, OutboundSettings
):
    """Worker of long-audio jobs."""

    queues: str = Field(
        default=",".join(Queue),
        description=f"Queues that this worker serves, with commas between: {', '.join(Queue)}.",
    )
    concurrency: int = Field(default=2, ge=1, le=256, description="Units worked on at the same time, a process each.")
    clips_at_once: int = Field(
        default=16,
        ge=1,
        le=64,
        description="Clips transcribed at the same time, times `concurrency`, by a worker that serves only the queue "
        "`clips`; they fill the speech encoder's batches.",
    )
    metrics_port: int = Field(
        default=0, ge=0, le=65535, description="HTTP port of health and metrics; 0 takes a free one."
    )

    speech_encoder_address: ServiceAddress = Field(
        default="127.0.0.1:50051",
        description="Address of the speech encoder: host:port, or its replicas as dns:///name:port or "
        "IP:port,IP:port, among which calls are spread.",
    )
    language_model_address: ServiceAddress = Field(
        default="127.0.0.1:50053", description="Address of the language model."
    )

    clip_seconds: float = Field(default=120.0, gt=0, description="Seconds that hearing one clip may take.")
    answer_seconds: float = Field(default=600.0, gt=0, description="Seconds that one pass of an answer may take.")
    max_tries: int = Field(default=3, ge=1, description="Times that a unit is tried before it is given up.")
    lease_seconds: float = Field(
        default=30.0,
        ge=1,
        description="Seconds after which a unit is taken from a worker that gives no sign of life.",
    )
    reconcile_seconds: float = Field(default=5.0, gt=0, description="Seconds between two looks for stalled jobs.")
    sweep_seconds: float = Field(
        default=600.0, gt=0, description="Seconds between two sweeps of what is past its retention."
    )

    window_tokens: int = Field(
        default=0,
        ge=0,
        description="Most speech tokens that are answered from at once; 0 for as many as the language model answers "
        "well from.",
    )
    answer_tokens: int = Field(default=256, ge=1, description="Most tokens of an answer.")
    window_answer_tokens: int = Field(default=96, ge=1, description="Most tokens of what a window says to a question.")
    keep_rate: float = Field(
        default=0.7,
        gt=0,
        le=1,
        description="Share of the speech tokens that the extractor keeps after each block of layers; 1 for all.",
    )

    @property
    def served(self) -> tuple[Queue, ...]:
        """The queues. Raises ValueError for a name that is none."""
        return tuple(Queue(name.strip()) for name in self.queues.split(",") if name.strip())

    def addresses(self) -> dict[str, str]:
        """Address of each service that workers call, by its name in the pipeline."""
        return {SPEECH_ENCODER: self.speech_encoder_address, LANGUAGE_MODEL: self.language_model_address}
