"""Settings of the language model service."""

from typing import Literal

from pydantic import Field

from services.shared.settings import AdapterServiceSettings


class LanguageModelSettings(AdapterServiceSettings):
    """Language model: prompts of text, speech and vision tokens to streamed answers (gRPC, lyra.v1.LanguageModel)."""

    port: int = Field(default=50053, ge=0, le=65535, description="gRPC port; 0 takes a free one.")
    metrics_port: int = Field(
        default=9153, ge=0, le=65535, description="HTTP port of Prometheus metrics; 0 takes a free one."
    )
    max_prompt_text_bytes: int = Field(default=2**20, gt=0, description="Most bytes of text (UTF-8) in a prompt.")
    quantization: Literal["none", "int8", "int4"] = Field(
        default="none", description="Bits of the model's weights; int8 and int4 want the package torchao."
    )
    prefix_cache_mib: int = Field(
        default=256,
        ge=0,
        description="MiB for what was read of long recordings and videos, so that the next question about one does not "
        "have it read again; 0 for none.",
    )
    max_waiting: int = Field(default=32, ge=0, description="Requests that may wait while one is answered.")
