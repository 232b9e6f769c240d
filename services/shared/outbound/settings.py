"""Settings of outbound requests: `LYRA_OUTBOUND_...` variables, or flags of the processes that make them."""

from pydantic import Field, FilePath, field_validator
from pydantic_settings import BaseSettings

from services.shared.outbound.addresses import Network, networks_from
from services.shared.settings import CONFIG


class OutboundSettings(BaseSettings):
    """Requests to URLs that clients provide; inherited by the settings of processes that make them."""

    model_config = CONFIG

    outbound_allow_http: bool = Field(default=False, description="Whether to allow http besides https.")
    outbound_allowed_networks: str = Field(
        default="",
        description="Comma-separated networks in CIDR notation (10.20.0.0/16) that are allowed although they are not "
        "public. All other addresses that are not public are refused.",
    )
    outbound_ca_file: FilePath | None = Field(
        default=None,
        description="PEM file of certificate authorities to trust in addition to the default ones.",
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
