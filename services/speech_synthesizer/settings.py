"""Settings of the speech synthesizer service."""

from pydantic import Field

from services.shared.settings import GatherSettings, ServiceSettings


class SpeechSynthesizerSettings(ServiceSettings, GatherSettings):
    """Speech synthesizer: answers, spoken while they are being generated (gRPC, lyra.v1.SpeechSynthesizer)."""

    port: int = Field(default=50054, ge=0, le=65535, description="gRPC port; 0 selects a free one.")
    metrics_port: int = Field(
        default=9154, ge=0, le=65535, description="HTTP port of Prometheus metrics; 0 selects a free one."
    )
    max_text_characters: int = Field(default=50_000, gt=0, description="Maximum characters of text in a call.")
    max_answer_tokens: int = Field(
        default=32_768, gt=0, description="Maximum answer tokens of a call whose voice speaks from hidden states."
    )
    max_streams: int = Field(default=8, ge=1, description="Maximum answers spoken concurrently.")
    max_clauses: int = Field(
        default=2,
        ge=1,
        description="Maximum clauses that a voice speaking from text synthesizes at the same time, each with up to "
        "200 MB of memory; the first clause of an answer goes before later ones of others.",
    )
    max_batch_tokens: int = Field(
        default=4,
        ge=1,
        description="Maximum answer tokens in a batch of several answers, for a voice that speaks from hidden states; "
        "bounds memory. Use 128 on an accelerator.",
    )
    max_waiting: int = Field(default=32, ge=0, description="Maximum calls waiting while max_streams run.")
