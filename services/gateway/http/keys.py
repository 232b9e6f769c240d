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
    """The file of keys is damaged; nobody is let in until it is mended."""


class State(StrEnum):
    """What a key is good for at a time."""

    GOOD = "good"
    REVOKED = "revoked"
    EXPIRED = "expired"


@dataclass(frozen=True, slots=True)
class Key:
    """What is kept of a key. Times are ISO 8601 in UTC; `revoked` is empty where nobody revoked it, `expires` where it
    never does."""

    id: str
    tenant: str
    name: str
    sha256: str
    created: str
    revoked: str = ""
    expires: str = ""

    def state(self, now: datetime | None = None) -> State:
        """At `now`, by default the present."""
        if self.revoked:
            return State.REVOKED
        expires = self.expires_at
        return State.EXPIRED if expires is not None and expires <= (now or datetime.now(UTC)) else State.GOOD

    @property
    def expires_at(self) -> datetime | None:
        """From when on it is refused; None for never."""
        return datetime.fromisoformat(self.expires) if self.expires else None


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

    def create(self, tenant: str, name: str = "", expires_at: datetime | None = None) -> tuple[Key, str]:
        """Makes a key for `tenant`. Returns what is kept of it, and the key itself, which is not kept.

        Args:
            tenant: A plain word: it travels in headers.
            name: What it is for.
            expires_at: From when on it is refused, with its time zone; None for never.

        Raises:
            ValueError: The tenant is no plain word, or the time has no time zone or is not ahead.
            KeysUnreadable: The file is damaged.
            OSError: The file cannot be written.
        """
        check_tenant(tenant)
        if expires_at is not None and (expires_at.tzinfo is None or expires_at <= datetime.now(UTC)):
            raise ValueError("expires: has to be a time ahead, with its time zone")
        secret = PREFIX + secrets.token_urlsafe(32)
        expires = "" if expires_at is None else _iso(expires_at)
        key = Key(
            f"key_{secrets.token_hex(6)}", tenant, name, _digest(secret), _iso(datetime.now(UTC)), expires=expires
        )
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
                keys[key_id] = replace(keys[key_id], revoked=_iso(datetime.now(UTC)))
                self._write(tuple(keys.values()))
            return keys[key_id]

    def match(self, secret: str) -> Key | None:
        """The key that `secret` is, also a revoked or expired one, or None. Takes the same time wherever the match is.

        Raises KeysUnreadable.
        """
        digest, found = _digest(secret), None
        for key in self.list():
            if hmac.compare_digest(key.sha256, digest):
                found = key
        return found

    def find(self, secret: str) -> Key | None:
        """The good key that `secret` is, or None. Raises KeysUnreadable."""
        key = self.match(secret)
        return key if key is not None and key.state() is State.GOOD else None

    def _write(self, keys: tuple[Key, ...]) -> None:
        self._file.write(json.dumps({"version": 1, "keys": [_entry(key) for key in keys]}, indent=2))


def _entry(key: Key) -> dict[str, Any]:
    """`expires` stands only where there is one: releases that do not know it read all other files."""
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
