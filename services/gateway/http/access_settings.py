"""Settings of who may ask how often."""

from ipaddress import IPv4Network, IPv6Network
from typing import Annotated

from limits import RateLimitItem, parse_many
from pydantic import AfterValidator, Field
from pydantic_settings import BaseSettings

from services.gateway.http.client_addresses import trusted_networks
from services.shared.settings import CONFIG


def parse_rate(text: str) -> RateLimitItem | None:
    """`600/minute` -> that rate; None for an empty text. Raises ValueError."""
    if not text.strip():
        return None
    try:
        rates = parse_many(text.strip())
    except ValueError:
        rates = []
    if len(rates) != 1 or rates[0].amount < 1:
        raise ValueError(f"{text[:60]!r} is no rate; write it as 600/minute or 20/10 seconds, empty for no limit")
    return rates[0]


def _rate(text: str) -> str:
    parse_rate(text)
    return text


def _networks(text: str) -> str:
    trusted_networks(text)
    return text


Rate = Annotated[str, AfterValidator(_rate)]


class AccessSettings(BaseSettings):
    """How often keys and addresses may ask, and whose word about addresses counts."""

    model_config = CONFIG

    rate_limit_per_key: Rate = Field(
        default="6000/minute",
        description="Requests of one API key in a time, as 600/minute or 20/10 seconds, counted over all gateways; "
        "empty for no limit.",
    )
    rate_limit_per_address: Rate = Field(
        default="30000/minute",
        description="Requests with good keys from one client address (IPv6: one /64 network); empty for no limit.",
    )
    rate_limit_failed_keys: Rate = Field(
        default="20/minute",
        description="Requests without a good key from one client address that get 401; more get 429. Good keys pass "
        "all the same. Empty for no limit.",
    )
    rate_limit_redis_seconds: float = Field(
        default=0.5,
        gt=0,
        description="Seconds that Redis may take to count a request; after that, each gateway counts for itself.",
    )
    trusted_proxies: Annotated[str, AfterValidator(_networks)] = Field(
        default="",
        description="Addresses and networks, with commas between, of proxies whose X-Forwarded-For is believed; empty "
        "for none: then a client's address is that of its connection.",
    )

    @property
    def proxies(self) -> list[IPv4Network | IPv6Network]:
        """Whose X-Forwarded-For is believed."""
        return trusted_networks(self.trusted_proxies)
