"""Certificates for mutual TLS between services, reloaded when their files change."""

import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc

from services.shared.reloading_files import ReloadingFiles, SecretFileError


@dataclass(frozen=True, slots=True)
class CertificateBundle:
    """One side of mutual TLS, as PEM: its certificate chain and key, and the CA that signs the peer's certificate."""

    chain: bytes
    key: bytes
    authority: bytes


class MutualTls:
    """gRPC credentials from a certificate, its key and a CA, as their files are now.

    Args:
        chain: Certificate of this process, with the intermediates up to its CA.
        key: Its private key, not encrypted.
        authority: CA certificates that the peer's certificate has to be signed by.

    Raises:
        SecretFileError: The files cannot be read or do not belong together. Later changes that are invalid are logged,
            and the previous certificates stay in use.
    """

    def __init__(self, chain: Path, key: Path, authority: Path) -> None:
        self._files = ReloadingFiles(chain, key, authority, read=lambda: _read(chain, key, authority))

    def current(self) -> CertificateBundle:
        """The last valid certificates."""
        return self._files.current()

    def server_credentials(self) -> grpc.ServerCredentials:
        """Credentials that require client certificates and check the files for changes at each handshake."""
        used = self.current()

        def fetch() -> Any:  # None for no change, which gRPC's type stubs do not allow
            nonlocal used
            bundle = self.current()
            if bundle is used:
                return None
            used = bundle
            return _configuration(bundle)

        return grpc.dynamic_ssl_server_credentials(_configuration(used), fetch, require_client_authentication=True)

    def client_credentials(self) -> grpc.ChannelCredentials:
        """Credentials of a new channel."""
        bundle = self.current()
        return grpc.ssl_channel_credentials(bundle.authority, bundle.key, bundle.chain)


def _read(chain: Path, key: Path, authority: Path) -> CertificateBundle:
    try:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(chain, key, password=_no_password)
        context.load_verify_locations(authority)
        return CertificateBundle(chain.read_bytes(), key.read_bytes(), authority.read_bytes())
    except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
        raise SecretFileError(f"{chain}, {key}, {authority}: not a certificate, its key and a CA: {error}") from None


def _configuration(bundle: CertificateBundle) -> grpc.ServerCertificateConfiguration:
    pair = (bundle.key, bundle.chain)
    return grpc.ssl_server_certificate_configuration([pair], root_certificates=bundle.authority)


def _no_password() -> str:
    raise ValueError("the key is encrypted")
