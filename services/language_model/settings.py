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
    quantization: Literal["auto", "none", "int8", "int4"] = Field(
        default="auto",
        description="Format of the weights that few rows are multiplied by; many rows, as in prompts, use full "
        "precision. `auto` takes fewer bits only where the preset's weights lose nothing by it.",
    )
    cache_mib: int = Field(
        default=0,
        ge=0,
        description="Memory for keys and values of running and cached prompts, in MiB; 0 takes 512 on a CPU, or more "
        "if a prompt of the context length needs it, and on a GPU 80 % of the memory that is free beside the weights.",
    )
    cache_dtype: Literal["auto", "int8"] = Field(
        default="auto",
        description="Format of keys and values: the weights' own, or 8 bits, in which twice as many fit.",
    )
    prefix_cache_mib: int = Field(
        default=256,
        ge=0,
        description="Maximum memory of cached prefixes that no running request uses, in MiB: a further question about "
        "the same recording, or the next turn of a conversation, skips their prefill; 0 turns prefix caching off.",
    )
    max_running: int = Field(default=64, ge=1, description="Maximum number of requests that run at the same time.")
    max_step_tokens: int = Field(default=512, ge=16, description="Maximum number of prompt tokens in a step.")
    max_step_slowdown: float = Field(
        default=1.8,
        ge=1,
        description="How many times as long as without prompt tokens a step may take while answers are being "
        "generated: the less, the steadier answers stream while long prompts are read, and the longer those wait.",
    )
    max_waiting: int = Field(default=256, ge=0, description="Maximum number of requests waiting beyond those that run.")
