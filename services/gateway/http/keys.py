"""API keys.

The file holds only SHA-256 hashes; a key itself is shown once, when it is created. A plain hash is enough because a key
is 256 random bits, which cannot be guessed.
"""

import hashlib
import hmac
import json
import secrets
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Any

from services.shared.private_files import PrivateFile
from services.shared.tenants import check_tenant

PREFIX = "lyra_"
FILE_NAME = "keys.json"


class UnknownKey(LookupError):
    """No key has this id."""


class KeysUnreadable(RuntimeError):
    """The key file is damaged; all requests are refused until it is repaired."""


class KeyState(StrEnum):
    """State of a key at some time."""

    GOOD = "good"
    REVOKED = "revoked"
    EXPIRED = "expired"


@dataclass(frozen=True, slots=True)
class Key:
    """The stored record of a key. Times are ISO 8601 in UTC, or empty if the key is not revoked or never expires."""

    id: str
    tenant: str
    name: str
    sha256: str
    created: str
    revoked: str = ""
    expires: str = ""

    def state(self, now: datetime | None = None) -> KeyState:
        """State at `now`, by default the current time."""
        if self.revoked:
            return KeyState.REVOKED
        expires = self.expires_at
        return KeyState.EXPIRED if expires is not None and expires <= (now or datetime.now(UTC)) else KeyState.GOOD

    @property
    def expires_at(self) -> datetime | None:
        """When the key expires; None for never."""
        return datetime.fromisoformat(self.expires) if self.expires else None


class KeyStore:
    """The keys in `<home>/keys.json`. Changes by other processes are visible at the next lookup."""

    def __init__(self, home: Path) -> None:
        self._file = PrivateFile(home / FILE_NAME)
        self._keys: tuple[Key, ...] = ()
        self._version: tuple[int, int, int] | None = None

    @property
    def path(self) -> Path:
        """Path of the file."""
        return self._file.path

    def create(self, tenant: str, name: str = "", expires_at: datetime | None = None) -> tuple[Key, str]:
        """Creates a key for `tenant`. Returns its record, and the key itself, which is not stored.

        Args:
            tenant: See `tenants.check_tenant`.
            name: For people.
            expires_at: When the key expires, with a time zone; None for never.

        Raises:
            ValueError: The tenant is invalid, or the time has no time zone or is not in the future.
            KeysUnreadable: The file is damaged.
            OSError: The file cannot be written.
        """
        check_tenant(tenant)
        if expires_at is not None and (expires_at.tzinfo is None or expires_at <= datetime.now(UTC)):
            raise ValueError("expires: has to be a time in the future, with a time zone")
        secret = PREFIX + secrets.token_urlsafe(32)
        expires = "" if expires_at is None else _iso(expires_at)
        key = Key(
            f"key_{secrets.token_hex(6)}", tenant, name, _digest(secret), _iso(datetime.now(UTC)), expires=expires
        )
        with self._file.locked():
            self._write((*self.list(), key))
        return key, secret

    def list(self) -> tuple[Key, ...]:
        """All keys including revoked ones, oldest first. Raises KeysUnreadable."""
        version = self._file.version()
        if version != self._version:
            self._keys, self._version = (() if version is None else _read(self.path)), version
        return self._keys

    def revoke(self, key_id: str) -> Key:
        """Revokes a key for good; running gateways refuse its next request. Raises UnknownKey."""
        with self._file.locked():
            keys = {key.id: key for key in self.list()}
            if key_id not in keys:
                raise UnknownKey(f"no key has the id {key_id!r}")
            if not keys[key_id].revoked:
                keys[key_id] = replace(keys[key_id], revoked=_iso(datetime.now(UTC)))
                self._write(tuple(keys.values()))
            return keys[key_id]

    def match(self, secret: str) -> Key | None:
        """The key with this secret, even if revoked or expired; None if there is none. Compares in constant time.

        Raises KeysUnreadable.
        """
        digest, found = _digest(secret), None
        for key in self.list():
            if hmac.compare_digest(key.sha256, digest):
                found = key
        return found

    def find(self, secret: str) -> Key | None:
        """The valid key with this secret, or None. Raises KeysUnreadable."""
        key = self.match(secret)
        return key if key is not None and key.state() is KeyState.GOOD else None

    def _write(self, keys: tuple[Key, ...]) -> None:
        self._file.write(json.dumps({"version": 1, "keys": [_entry(key) for key in keys]}, indent=2))


def _entry(key: Key) -> dict[str, Any]:
    """Leaves out an empty `expires`, so that releases which do not know the field can read the file."""
    return {name: value for name, value in asdict(key).items() if value or name != "expires"}


def _read(path: Path) -> tuple[Key, ...]:
    try:
        keys = tuple(Key(**entry) for entry in json.loads(path.read_text())["keys"])
        for key in keys:
            if key.expires_at is not None and key.expires_at.tzinfo is None:
                raise ValueError("a time without its time zone")
        return keys
    except (ValueError, KeyError, TypeError) as error:
        raise KeysUnreadable(f"{path.name} cannot be read: {type(error).__name__}") from error


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()


def _iso(time: datetime) -> str:
    return time.astimezone(UTC).isoformat(timespec="seconds")
