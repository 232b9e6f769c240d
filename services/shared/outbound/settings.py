"""Whom this platform calls back: `LYRA_OUTBOUND_...` variables, or flags of the processes that call."""

from pydantic import Field, FilePath, field_validator
from pydantic_settings import BaseSettings

from services.shared.outbound.addresses import Network, networks_from
from services.shared.settings import CONFIG


class OutboundSettings(BaseSettings):
    """Calls to addresses that clients name. Processes that make them inherit these beside their own."""

    model_config = CONFIG

    outbound_allow_http: bool = Field(
        default=False, description="Whether plain http may be called too, and not https alone."
    )
    outbound_allowed_networks: str = Field(
        default="",
        description="Networks that may be called although they are not public, in CIDR notation with commas between "
        "(10.20.0.0/16). Everything else that is not public is refused.",
    )
    outbound_ca_file: FilePath | None = Field(
        default=None,
        description="File of certificate authorities (PEM) that are trusted beside the usual ones.",
    )

    @field_validator("outbound_allowed_networks")
    @classmethod
    def _are_networks(cls, text: str) -> str:
        networks_from(text)
        return text

    @property
    def allowed_networks(self) -> tuple[Network, ...]:
        """The networks of `outbound_allowed_networks`."""
        return networks_from(self.outbound_allowed_networks)
