"""Settings of rate limits and client addresses."""

from ipaddress import IPv4Network, IPv6Network
from typing import Annotated

from limits import RateLimitItem, parse_many
from pydantic import AfterValidator, Field
from pydantic_settings import BaseSettings

from services.gateway.http.client_addresses import trusted_networks
from services.shared.settings import CONFIG


def parse_rate(text: str) -> RateLimitItem | None:
    """Parses a rate such as `600/minute`; None if the text is empty. Raises ValueError."""
    if not text.strip():
        return None
    try:
        rates = parse_many(text.strip())
    except ValueError:
        rates = []
    if len(rates) != 1 or rates[0].amount < 1:
        raise ValueError(f"{text[:60]!r} is not a rate; write it as 600/minute or 20/10 seconds, empty for no limit")
    return rates[0]


def _rate(text: str) -> str:
    parse_rate(text)
    return text


def _networks(text: str) -> str:
    trusted_networks(text)
    return text


Rate = Annotated[str, AfterValidator(_rate)]


class AccessSettings(BaseSettings):
    """Rate limits by key and address, and the proxies whose X-Forwarded-For is trusted."""

    model_config = CONFIG

    rate_limit_per_key: Rate = Field(
        default="6000/minute",
        description="Rate limit of one API key, such as 600/minute or 20/10 seconds, counted across all gateways; "
        "empty for no limit.",
    )
    rate_limit_per_address: Rate = Field(
        default="30000/minute",
        description="Rate limit of requests with valid keys from one client address (IPv6: one /64 network); "
        "empty for no limit.",
    )
    rate_limit_failed_keys: Rate = Field(
        default="20/minute",
        description="Rate at which one client address gets 401 for requests without a valid key; beyond it, 429. Valid "
        "keys are not affected. Empty for no limit.",
    )
    rate_limit_redis_seconds: float = Field(
        default=0.5,
        gt=0,
        description="Seconds that Redis may take to count a request; after that, each gateway counts on its own.",
    )
    trusted_proxies: Annotated[str, AfterValidator(_networks)] = Field(
        default="",
        description="Comma-separated addresses and networks of proxies whose X-Forwarded-For is trusted; empty for "
        "none: then a client's address is that of its connection.",
    )

    @property
    def proxies(self) -> list[IPv4Network | IPv6Network]:
        """Networks of proxies whose X-Forwarded-For is trusted."""
        return trusted_networks(self.trusted_proxies)
