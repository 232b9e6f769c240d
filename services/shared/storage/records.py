"""JSON objects in the store: one class each, serialized deterministically."""

from typing import Self

from pydantic import BaseModel, ConfigDict


class Stored(BaseModel):
    """An object in the store; its keys are in the order of the fields."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    def to_bytes(self) -> bytes:
        return self.model_dump_json(indent=1).encode()

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Raises pydantic.ValidationError."""
        return cls.model_validate_json(data)
