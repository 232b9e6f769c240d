"""Who a process is to the services that it calls: what it shows with each call, and over which kind of connection."""

from dataclasses import dataclass
from typing import Self

from services.shared.rpc.certificates import Certificates
from services.shared.rpc.tokens import TokenFile
from services.shared.settings import ServiceAccessSettings

TOKEN_METADATA = "authorization"
SCHEME = "Bearer "


@dataclass(frozen=True, slots=True)
class Caller:
    """Nobody in particular, until it has a token or certificates.

    Attributes:
        token: Shown with every call. gRPC's own call credentials refuse connections without TLS, which a token alone is
            for: so it travels as plain metadata.
        certificates: With them connections are mutual TLS.
        tls_name: That a service's certificate is to have; empty for the host in its address.
    """

    token: TokenFile | None = None
    certificates: Certificates | None = None
    tls_name: str = ""

    @classmethod
    def of(cls, settings: ServiceAccessSettings) -> Self:
        """Raises SecretUnusable."""
        return cls(
            token=TokenFile(settings.service_token_file) if settings.service_token_file else None,
            certificates=certificates_of(settings),
            tls_name=settings.service_tls_name,
        )

    def metadata(self) -> tuple[tuple[str, str], ...]:
        """What every call carries."""
        return ((TOKEN_METADATA, SCHEME + self.token.first()),) if self.token is not None else ()


def certificates_of(settings: ServiceAccessSettings) -> Certificates | None:
    """Those that the settings name; None where they name none. Raises SecretUnusable."""
    chain, key = settings.service_tls_cert_file, settings.service_tls_key_file
    authority = settings.service_tls_ca_file
    return Certificates(chain, key, authority) if chain and key and authority else None
