"""API keys: who may use the gateway.

A key is 256 random bits, so a plain SHA-256 is enough to keep it: there is nothing to guess. The file holds only
hashes; the key itself is shown once, when it is made.
"""

import fcntl
import hashlib
import hmac
import json
import os
import re
import secrets
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

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
        self.path = home / FILE_NAME
        self._keys: tuple[Key, ...] = ()
        self._seen: tuple[int, int, int] | None = None

    def create(self, tenant: str, name: str = "") -> tuple[Key, str]:
        """Makes a key for `tenant`. Returns what is kept of it, and the key itself, which is not kept.

        Raises ValueError for a tenant that is no plain word: it travels in headers.
        """
        if not re.fullmatch(r"[A-Za-z0-9._-]{1,64}", tenant):
            raise ValueError("tenant: has to be 1 to 64 letters, digits, dots, dashes or underscores")
        secret = PREFIX + secrets.token_urlsafe(32)
        key = Key(f"key_{secrets.token_hex(6)}", tenant, name, _digest(secret), _now())
        with self._locked():
            self._write((*self.list(), key))
        return key, secret

    def list(self) -> tuple[Key, ...]:
        """All keys, revoked ones too, oldest first. Raises KeysUnreadable."""
        try:
            status = self.path.stat()
        except FileNotFoundError:
            self._keys, self._seen = (), None
            return self._keys
        seen = (status.st_mtime_ns, status.st_ino, status.st_size)
        if seen != self._seen:
            self._keys, self._seen = _read(self.path), seen
        return self._keys

    def revoke(self, key_id: str) -> Key:
        """Ends a key for good; a running gateway refuses it from its next request. Raises UnknownKey."""
        with self._locked():
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

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Holds other processes off between reading and writing."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.with_suffix(".lock").open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _write(self, keys: tuple[Key, ...]) -> None:
        """Replaces the file at once, readable by its owner alone (mkstemp makes it 0600)."""
        descriptor, name = tempfile.mkstemp(dir=self.path.parent, prefix=".keys-")
        try:
            with os.fdopen(descriptor, "w") as file:
                json.dump({"version": 1, "keys": [asdict(key) for key in keys]}, file, indent=2)
                file.flush()
                os.fsync(file.fileno())
            Path(name).replace(self.path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise


def _read(path: Path) -> tuple[Key, ...]:
    try:
        return tuple(Key(**entry) for entry in json.loads(path.read_text())["keys"])
    except (ValueError, KeyError, TypeError) as error:
        raise KeysUnreadable(f"{path.name} cannot be read: {type(error).__name__}") from error


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
