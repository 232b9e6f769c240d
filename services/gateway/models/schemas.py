"""OpenAI's schemas of models."""

from typing import Literal

from pydantic import BaseModel, Field


class Model(BaseModel):
    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str = "lyra"


class LyraDetails(BaseModel):
    """Details that OpenAI's schema does not have."""

    context_tokens: int = Field(description="Maximum number of tokens of prompt and answer together.")
    adapters: list[str] = Field(description="Values of lyra.adapter in requests, besides base.")
    max_blocks: int = Field(description="Maximum of lyra.blocks in requests.")
    keep_rate: float = Field(description="Default of lyra.keep_rate in requests.")
    blocks: int = Field(description="Default of lyra.blocks in requests.")


class ModelDetails(Model):
    lyra: LyraDetails


class ModelList(BaseModel):
    object: Literal["list"] = "list"
    data: list[Model]
