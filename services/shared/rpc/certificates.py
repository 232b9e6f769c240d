"""Certificates of services and their callers, from files that may be replaced while they run."""

import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc

from services.shared import telemetry
from services.shared.private_file import PrivateFile
from services.shared.rpc.tokens import SecretUnusable

log = telemetry.get_logger(__name__)

Version = tuple[tuple[int, int, int] | None, ...]


@dataclass(frozen=True, slots=True)
class Bundle:
    """What one side of mutual TLS has, as PEM: its chain and key, and the authority of the other side."""

    chain: bytes
    key: bytes
    authority: bytes


class Certificates:
    """The certificates in three files, as they are now. Files that do not belong together are not taken.

    Args:
        chain: Certificate of this process, with what leads to its authority.
        key: Its private key.
        authority: Certificates that the other side's has to be signed by.

    Raises:
        SecretUnusable: They cannot be read, or the key is not the certificate's. Later that changes nothing, and is
            logged: three files are replaced one after the other.
    """

    def __init__(self, chain: Path, key: Path, authority: Path) -> None:
        self._paths = (chain, key, authority)
        self._seen = self._version()
        self._bundle = self._read()

    def current(self) -> Bundle:
        """The last that were whole."""
        version = self._version()
        if version != self._seen:
            self._seen = version
            try:
                self._bundle = self._read()
                log.info("certificates read again", file=str(self._paths[0]))
            except SecretUnusable as error:
                log.warning("certificates stay as they were", reason=str(error))
        return self._bundle

    def for_server(self) -> grpc.ServerCredentials:
        """Credentials of a server that asks its clients for certificates, and looks at the files at each handshake."""

        given = self.current()

        def fetch() -> Any:  # None for no change, which gRPC's type stubs do not know of
            nonlocal given
            bundle = self.current()
            if bundle is given:
                return None
            given = bundle
            return _configuration(bundle)

        return grpc.dynamic_ssl_server_credentials(_configuration(given), fetch, require_client_authentication=True)

    def for_client(self) -> grpc.ChannelCredentials:
        """Credentials of a channel; of the files as they are now."""
        bundle = self.current()
        return grpc.ssl_channel_credentials(bundle.authority, bundle.key, bundle.chain)

    def _version(self) -> Version:
        return tuple(PrivateFile(path).version() for path in self._paths)

    def _read(self) -> Bundle:
        chain, key, authority = self._paths
        try:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(chain, key, password=_no_password)
            context.load_verify_locations(authority)
            bundle = Bundle(*(path.read_bytes() for path in self._paths))
        except (OSError, ssl.SSLError, ValueError) as error:
            names = ", ".join(map(str, self._paths))
            raise SecretUnusable(f"{names} are no certificate, key and CA: {error}") from None
        if self._version() != self._seen:
            raise SecretUnusable(f"{chain} or its key was replaced while it was read")
        return bundle


def _configuration(bundle: Bundle) -> grpc.ServerCertificateConfiguration:
    pair = (bundle.key, bundle.chain)
    return grpc.ssl_server_certificate_configuration([pair], root_certificates=bundle.authority)


def _no_password() -> str:
    raise ValueError("the key is encrypted")
