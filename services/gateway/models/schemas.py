"""OpenAI's shapes of models."""

from typing import Literal

from pydantic import BaseModel, Field


class Model(BaseModel):
    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str = "lyra"


class LyraDetails(BaseModel):
    """What OpenAI's shape has no word for."""

    context_tokens: int = Field(description="Most tokens of prompt and answer together.")
    adapters: list[str] = Field(description="What lyra.adapter of a request may name, beside base.")
    max_blocks: int = Field(description="Most that lyra.blocks of a request may be.")
    keep_rate: float = Field(description="What a request gets that names none.")
    blocks: int = Field(description="What a request gets that names none.")


class ModelDetails(Model):
    lyra: LyraDetails


class ModelList(BaseModel):
    object: Literal["list"] = "list"
    data: list[Model]
