"""Settings of the language model service."""

from typing import Literal

from pydantic import Field

from services.shared.settings import AdapterServiceSettings


class LanguageModelSettings(AdapterServiceSettings):
    """Language model: prompts of text, speech and vision tokens to streamed answers (gRPC, lyra.v1.LanguageModel)."""

    port: int = Field(default=50053, ge=0, le=65535, description="gRPC port; 0 selects a free one.")
    metrics_port: int = Field(
        default=9153, ge=0, le=65535, description="HTTP port of Prometheus metrics; 0 selects a free one."
    )
    max_prompt_text_bytes: int = Field(default=2**20, gt=0, description="Maximum text in a prompt, in bytes of UTF-8.")
    quantization: Literal["none", "int8", "int4"] = Field(
        default="none", description="Weight-only quantization; int8 and int4 need the package torchao."
    )
    prefix_cache_mib: int = Field(
        default=256,
        ge=0,
        description="Capacity of the prefix cache, in MiB: a further question about the same long recording or video "
        "skips its prefill; 0 turns it off.",
    )
    max_waiting: int = Field(default=32, ge=0, description="Maximum number of requests waiting while one is answered.")
