"""Callers with tokens and certificates in files that belong to a test."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import trustme

from services.shared.rpc.certificates import MutualTls
from services.shared.rpc.credentials import ClientCredentials
from services.shared.rpc.tokens import TokenFile, make_token_file


def token(folder: Path, name: str = "service-token") -> Path:
    """A file with a token."""
    return make_token_file(folder / name)


def shows(path: Path) -> ClientCredentials:
    """A caller that sends the first token of a file."""
    return ClientCredentials(token=TokenFile(path))


def raw_call(channel: grpc.aio.Channel, path: str) -> Any:
    """A call of any method with unvalidated bytes; gRPC's type stubs require a serializer."""
    method: Any = channel.stream_stream
    return method(path)(timeout=60)


@dataclass(frozen=True, slots=True)
class Identity:
    """Certificate, key and CA of one side, in files."""

    chain: Path
    key: Path
    authority: Path

    @property
    def settings(self) -> Mapping[str, Path]:
        """Settings of a service with this identity."""
        return {
            "service_tls_cert_file": self.chain,
            "service_tls_key_file": self.key,
            "service_tls_ca_file": self.authority,
        }

    def caller(self, tls_name: str = "") -> ClientCredentials:
        """A caller with this identity."""
        return ClientCredentials(mutual_tls=MutualTls(self.chain, self.key, self.authority), tls_name=tls_name)


def identity(folder: Path, authority: trustme.CA, *names: str, trusts: trustme.CA | None = None) -> Identity:
    """Creates or replaces files in `folder`: a certificate for `names`, and the CA to trust (by default its own)."""
    folder.mkdir(exist_ok=True)
    made = Identity(folder / "tls.crt", folder / "tls.key", folder / "ca.crt")
    issued = authority.issue_cert(*names)
    made.chain.write_bytes(b"".join(each.bytes() for each in issued.cert_chain_pems))
    made.key.write_bytes(issued.private_key_pem.bytes())
    made.authority.write_bytes((trusts or authority).cert_pem.bytes())
    return made
