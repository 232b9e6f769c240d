"""Response of /version."""

from typing import Literal

from pydantic import BaseModel, Field


class Version(BaseModel):
    name: Literal["lyra"] = "lyra"
    version: str = Field(description="Version of this server.")
    api: Literal["v1"] = Field(default="v1", description="Revision of the API, the first component of its paths.")
    model: str = Field(description="Id of the model.")
