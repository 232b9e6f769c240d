"""API keys: who may use the gateway.

A key is 256 random bits, so a plain SHA-256 is enough to keep it: there is nothing to guess. The file holds only
hashes; the key itself is shown once, when it is made.
"""

import hashlib
import hmac
import json
import secrets
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from services.common.private_file import PrivateFile
from services.common.tenants import check_tenant

PREFIX = "lyra_"
FILE_NAME = "keys.json"


class UnknownKey(LookupError):
    """No key has this id."""


class KeysUnreadable(RuntimeError):
    """The file of keys is damaged; nobody is let in until it is mended."""


@dataclass(frozen=True, slots=True)
class Key:
    """What is kept of a key. Times are ISO 8601 in UTC; `revoked` is empty while the key is good."""

    id: str
    tenant: str
    name: str
    sha256: str
    created: str
    revoked: str = ""


class KeyStore:
    """The keys in `<home>/keys.json`. Changes made by another process are seen at the next look-up."""

    def __init__(self, home: Path) -> None:
        self._file = PrivateFile(home / FILE_NAME)
        self._keys: tuple[Key, ...] = ()
        self._seen: tuple[int, int, int] | None = None

    @property
    def path(self) -> Path:
        """Of the file."""
        return self._file.path

    def create(self, tenant: str, name: str = "") -> tuple[Key, str]:
        """Makes a key for `tenant`. Returns what is kept of it, and the key itself, which is not kept.

        Raises ValueError for a tenant that is no plain word: it travels in headers.
        """
        check_tenant(tenant)
        secret = PREFIX + secrets.token_urlsafe(32)
        key = Key(f"key_{secrets.token_hex(6)}", tenant, name, _digest(secret), _now())
        with self._file.locked():
            self._write((*self.list(), key))
        return key, secret

    def list(self) -> tuple[Key, ...]:
        """All keys, revoked ones too, oldest first. Raises KeysUnreadable."""
        seen = self._file.version()
        if seen != self._seen:
            self._keys, self._seen = (() if seen is None else _read(self.path)), seen
        return self._keys

    def revoke(self, key_id: str) -> Key:
        """Ends a key for good; a running gateway refuses it from its next request. Raises UnknownKey."""
        with self._file.locked():
            keys = {key.id: key for key in self.list()}
            if key_id not in keys:
                raise UnknownKey(f"no key has the id {key_id!r}")
            if not keys[key_id].revoked:
                keys[key_id] = replace(keys[key_id], revoked=_now())
                self._write(tuple(keys.values()))
            return keys[key_id]

    def find(self, secret: str) -> Key | None:
        """The good key that `secret` is, or None. Takes the same time wherever the match is. Raises KeysUnreadable."""
        digest, found = _digest(secret), None
        for key in self.list():
            if hmac.compare_digest(key.sha256, digest) and not key.revoked:
                found = key
        return found

    def _write(self, keys: tuple[Key, ...]) -> None:
        self._file.write(json.dumps({"version": 1, "keys": [asdict(key) for key in keys]}, indent=2))


def _read(path: Path) -> tuple[Key, ...]:
    try:
        return tuple(Key(**entry) for entry in json.loads(path.read_text())["keys"])
    except (ValueError, KeyError, TypeError) as error:
        raise KeysUnreadable(f"{path.name} cannot be read: {type(error).__name__}") from error


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
