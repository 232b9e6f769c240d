"""Secrets that callbacks are signed with: one id, one tenant, and while a rotation runs several secrets at a time.

Unlike an API key, a secret has to be kept as it is: signing needs it. So the file is for its owner alone. On Kubernetes
it is mounted from a Secret instead, in the same form, and never written.
"""

import base64
import secrets
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError, field_validator

from services.shared.private_files import PrivateFile
from services.shared.tenants import check_tenant

FILE_NAME = "webhook_secrets.json"
OVERLAP = timedelta(days=1)  # that an old secret signs on after a rotation

_PREFIX = "whsec_"
_SECRET_BYTES = 32
_LEAST_BYTES, _MOST_BYTES = 24, 64  # by the convention


class UnknownSecret(LookupError):
    """The tenant has no such secret."""


class RevokedSecret(UnknownSecret):
    """The tenant's secret was revoked: it never signs again."""


class SecretsUnreadable(RuntimeError):
    """The file of secrets is damaged; nothing is signed until it is mended."""


class Signer(BaseModel):
    """A secret that signs, until `ends` where something has replaced it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    secret: str = Field(repr=False)
    created: AwareDatetime
    ends: AwareDatetime | None = None

    @field_validator("secret")
    @classmethod
    def _signs(cls, secret: str) -> str:
        if not secret.startswith(_PREFIX):
            raise ValueError(f"a secret begins with {_PREFIX}")
        size = len(base64.b64decode(secret.removeprefix(_PREFIX), validate=True))
        if not _LEAST_BYTES <= size <= _MOST_BYTES:
            raise ValueError(f"a secret has {_LEAST_BYTES} to {_MOST_BYTES} bytes, this one has {size}")
        return secret


class WebhookSecret(BaseModel):
    """What a job names by its `id`: the newest signer first. `revoked` is the time from which it signs nothing."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str
    tenant: str
    name: str = ""
    created: AwareDatetime
    signers: tuple[Signer, ...]
    revoked: AwareDatetime | None = None

    def active(self, now: datetime) -> tuple[Signer, ...]:
        """The signers to sign with at `now`, the newest first; none once revoked."""
        return () if self.revoked else tuple(each for each in self.signers if each.ends is None or each.ends > now)


class _Content(BaseModel):
    """What the file holds."""

    version: Literal[1] = 1
    secrets: tuple[WebhookSecret, ...]


class SecretStore:
    """The secrets in a file. Changes made by another process are seen at the next look-up.

    Args:
        path: Of the file; may be a read-only mount where only `active` and `list` are called.
    """

    def __init__(self, path: Path) -> None:
        self._file = PrivateFile(path)
        self._known: tuple[WebhookSecret, ...] = ()
        self._seen: tuple[int, int, int] | None = None

    @property
    def path(self) -> Path:
        """Of the file."""
        return self._file.path

    def create(self, tenant: str, name: str = "") -> WebhookSecret:
        """Makes a secret for `tenant`'s callbacks. Raises ValueError for a tenant that is no plain word."""
        check_tenant(tenant)
        now = _now()
        made = WebhookSecret(
            id=f"whk_{secrets.token_hex(6)}", tenant=tenant, name=name, created=now, signers=(_signer(now),)
        )
        with self._file.locked():
            self._write((*self.list(), made))
        return made

    def rotate(self, secret_id: str, overlap: timedelta = OVERLAP) -> WebhookSecret:
        """Adds a new secret under the same id; those that sign until now do so for `overlap` more.

        Raises:
            UnknownSecret, RevokedSecret.
        """
        with self._file.locked():
            known, now = self._by_id(), _now()
            if (old := known.get(secret_id)) is None:
                raise UnknownSecret(f"no secret has the id {secret_id!r}")
            if old.revoked:
                raise RevokedSecret(f"the secret {secret_id!r} was revoked")
            end = now + overlap
            left = [each.model_copy(update={"ends": min(each.ends or end, end)}) for each in old.active(now)]
            known[secret_id] = old.model_copy(update={"signers": (_signer(now), *left)})
            self._write(tuple(known.values()))
            return known[secret_id]

    def revoke(self, secret_id: str) -> WebhookSecret:
        """Ends an id for good: callbacks that still wait to be signed with it are not sent. Raises UnknownSecret."""
        with self._file.locked():
            known = self._by_id()
            if secret_id not in known:
                raise UnknownSecret(f"no secret has the id {secret_id!r}")
            if not known[secret_id].revoked:
                known[secret_id] = known[secret_id].model_copy(update={"revoked": _now(), "signers": ()})
                self._write(tuple(known.values()))
            return known[secret_id]

    def list(self) -> tuple[WebhookSecret, ...]:
        """All of them, revoked ones too, oldest first. Raises SecretsUnreadable."""
        seen = self._file.version()
        if seen != self._seen:
            self._known, self._seen = (() if seen is None else _read(self.path)), seen
        return self._known

    def active(self, tenant: str, secret_id: str, now: datetime) -> tuple[str, ...]:
        """The secrets to sign with, newest first, as "whsec_..." each; at least one.

        Raises:
            UnknownSecret: The tenant has no such id; another tenant may have it.
            RevokedSecret, SecretsUnreadable.
        """
        found = self._by_id().get(secret_id)
        if found is None or found.tenant != tenant:
            raise UnknownSecret(f"there is no webhook secret {secret_id!r}")
        if not (signers := found.active(now)):
            raise RevokedSecret(f"the webhook secret {secret_id!r} was revoked")
        return tuple(signer.secret for signer in signers)

    def _by_id(self) -> dict[str, WebhookSecret]:
        return {each.id: each for each in self.list()}

    def _write(self, known: tuple[WebhookSecret, ...]) -> None:
        self._file.write(_Content(secrets=known).model_dump_json(indent=2))


def _read(path: Path) -> tuple[WebhookSecret, ...]:
    try:
        return _Content.model_validate_json(path.read_bytes()).secrets
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "the file"
        # Without its cause: that would show what the file holds.
        raise SecretsUnreadable(f"{path.name} cannot be read: {where}: {first['msg']}") from None


def _signer(now: datetime) -> Signer:
    return Signer(secret=_PREFIX + base64.b64encode(secrets.token_bytes(_SECRET_BYTES)).decode(), created=now)


def _now() -> datetime:
    return datetime.now(UTC).replace(microsecond=0)
