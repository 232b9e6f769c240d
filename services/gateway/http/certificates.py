"""The gateway's TLS certificate and key, reloaded when their files change."""

import ssl
from pathlib import Path

from services.shared.reloading_files import ReloadingFiles, SecretFileError


class ServerCertificate:
    """Provides the TLS context of each new connection; existing connections keep theirs.

    Raises:
        SecretFileError: The files are not a certificate and its key. Later changes that are invalid are logged, and the
            previous certificate stays in use.
    """

    def __init__(self, cert_file: Path, key_file: Path) -> None:
        self._files = ReloadingFiles(cert_file, key_file, read=lambda: _read(cert_file, key_file))

    def context(self) -> ssl.SSLContext:
        """TLS 1.2 or later, HTTP/1.1 only."""
        return self._files.current()


def _read(cert_file: Path, key_file: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    try:
        # With an empty password an encrypted key is an error rather than a prompt.
        context.load_cert_chain(cert_file, key_file, password=lambda: b"")
    except OSError as error:  # ssl.SSLError is one
        raise SecretFileError(f"{cert_file}, {key_file}: not a certificate and its key: {error}") from None
    return context
