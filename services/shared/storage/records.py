"""JSON objects in the store: each a class, written whole, the same bytes for the same values."""

from typing import Self

from pydantic import BaseModel, ConfigDict


class Stored(BaseModel):
    """An object in the store, with its keys in the order of the fields."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    def to_bytes(self) -> bytes:
        return self.model_dump_json(indent=1).encode()

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Raises pydantic.ValidationError."""
        return cls.model_validate_json(data)
