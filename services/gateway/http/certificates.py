"""The gateway's certificate and key, read anew when their files change."""

import asyncio
import ssl
from pathlib import Path

from services.shared import telemetry

log = telemetry.get_logger(__name__)


class Certificates:
    """Makes the TLS context that new connections get. Those that there are keep theirs."""

    def __init__(self, cert_file: Path, key_file: Path) -> None:
        """Raises OSError or ssl.SSLError for files that cannot be used."""
        self._cert_file = cert_file
        self._key_file = key_file
        self._seen = self._version()
        self._context = self._load()

    def context(self) -> ssl.SSLContext:
        """Of the files as they were when they could last be used."""
        return self._context

    def refresh(self) -> bool:
        """Reads the files if they have changed. Returns whether there is a new context; bad files are logged, once."""
        try:
            seen = self._version()
            if seen == self._seen:
                return False
            self._seen = seen
            self._context = self._load()
        except OSError as error:  # ssl.SSLError is one
            log.error("the certificate cannot be read, the one before is kept", reason=str(error))
            return False
        log.info("a new certificate was read", file=str(self._cert_file))
        return True

    async def watch(self, seconds: float) -> None:
        """Refreshes every `seconds`, until cancelled."""
        while True:
            await asyncio.sleep(seconds)
            self.refresh()

    def _version(self) -> tuple[tuple[int, int, int], ...]:
        stats = [path.stat() for path in (self._cert_file, self._key_file)]
        return tuple((stat.st_ino, stat.st_mtime_ns, stat.st_size) for stat in stats)

    def _load(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.set_alpn_protocols(["http/1.1"])
        # Without a password there is nobody to ask: an encrypted key is an error, not a prompt.
        context.load_cert_chain(self._cert_file, self._key_file, password=lambda: b"")
        return context
