"""Credentials that a process presents to the services it calls."""

from dataclasses import dataclass
from typing import Self

from services.shared.rpc.certificates import MutualTls
from services.shared.rpc.tokens import TokenFile
from services.shared.settings import ServiceAccessSettings

TOKEN_METADATA = "authorization"
SCHEME = "Bearer "


@dataclass(frozen=True, slots=True)
class ClientCredentials:
    """A token, certificates, both or neither.

    Attributes:
        token: Sent as plain metadata with every call: gRPC's own call credentials refuse connections without TLS.
        mutual_tls: Certificates of the connection; None for a connection without TLS.
        tls_name: Name expected in the service's certificate; empty for the host in its address.
    """

    token: TokenFile | None = None
    mutual_tls: MutualTls | None = None
    tls_name: str = ""

    @classmethod
    def from_settings(cls, settings: ServiceAccessSettings) -> Self:
        """Raises SecretFileError."""
        return cls(
            token=TokenFile(settings.service_token_file) if settings.service_token_file else None,
            mutual_tls=mutual_tls_from_settings(settings),
            tls_name=settings.service_tls_name,
        )

    def metadata(self) -> tuple[tuple[str, str], ...]:
        """Metadata of every call."""
        return ((TOKEN_METADATA, SCHEME + self.token.first()),) if self.token is not None else ()


def mutual_tls_from_settings(settings: ServiceAccessSettings) -> MutualTls | None:
    """The configured certificates; None if there are none. Raises SecretFileError."""
    chain, key = settings.service_tls_cert_file, settings.service_tls_key_file
    authority = settings.service_tls_ca_file
    return MutualTls(chain, key, authority) if chain and key and authority else None
