"""Secrets for signing callbacks. Each has an id and a tenant; during a rotation, an id has several secrets.

Unlike API keys, secrets have to be stored in plain text for signing, so only the owner can read the file. On Kubernetes
it is mounted from a Secret, in the same format, and never written.
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
OVERLAP = timedelta(days=1)  # for which an old secret keeps signing after a rotation

_PREFIX = "whsec_"
_SECRET_BYTES = 32
_MIN_BYTES, _MAX_BYTES = 24, 64  # according to Standard Webhooks


class UnknownSecret(LookupError):
    """The tenant has no such secret."""


class RevokedSecret(UnknownSecret):
    """The tenant's secret has been revoked."""


class SecretsUnreadable(RuntimeError):
    """The file of secrets is damaged; nothing can be signed until it is repaired."""


class SigningSecret(BaseModel):
    """One secret; after a rotation it is used until `ends`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    secret: str = Field(repr=False)
    created: AwareDatetime
    ends: AwareDatetime | None = None

    @field_validator("secret")
    @classmethod
    def _signs(cls, secret: str) -> str:
        if not secret.startswith(_PREFIX):
            raise ValueError(f"a secret has to start with {_PREFIX}")
        size = len(base64.b64decode(secret.removeprefix(_PREFIX), validate=True))
        if not _MIN_BYTES <= size <= _MAX_BYTES:
            raise ValueError(f"a secret has to have {_MIN_BYTES} to {_MAX_BYTES} bytes, this one has {size}")
        return secret


class WebhookSecret(BaseModel):
    """The secrets that a job refers to by `id`, newest first. Once `revoked`, nothing is signed with it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str
    tenant: str
    name: str = ""
    created: AwareDatetime
    signers: tuple[SigningSecret, ...]
    revoked: AwareDatetime | None = None

    def active(self, now: datetime) -> tuple[SigningSecret, ...]:
        """The secrets to sign with at `now`, newest first; none once revoked."""
        return () if self.revoked else tuple(each for each in self.signers if each.ends is None or each.ends > now)


class _Content(BaseModel):
    """Content of the file."""

    version: Literal[1] = 1
    secrets: tuple[WebhookSecret, ...]


class SecretStore:
    """The secrets in a file. Changes by other processes are visible at the next lookup.

    Args:
        path: May be a read-only mount if only `active` and `list` are called.
    """

    def __init__(self, path: Path) -> None:
        self._file = PrivateFile(path)
        self._known: tuple[WebhookSecret, ...] = ()
        self._version: tuple[int, int, int] | None = None

    @property
    def path(self) -> Path:
        """Path of the file."""
        return self._file.path

    def create(self, tenant: str, name: str = "") -> WebhookSecret:
        """Creates a secret for `tenant`'s callbacks. Raises ValueError for an invalid tenant."""
        check_tenant(tenant)
        now = _now()
        made = WebhookSecret(
            id=f"whk_{secrets.token_hex(6)}", tenant=tenant, name=name, created=now, signers=(_signer(now),)
        )
        with self._file.locked():
            self._write((*self.list(), made))
        return made

    def rotate(self, secret_id: str, overlap: timedelta = OVERLAP) -> WebhookSecret:
        """Adds a new secret under the same id; the previous ones keep signing for `overlap`.

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
        """Revokes an id for good: pending callbacks that need it are not sent. Raises UnknownSecret."""
        with self._file.locked():
            known = self._by_id()
            if secret_id not in known:
                raise UnknownSecret(f"no secret has the id {secret_id!r}")
            if not known[secret_id].revoked:
                known[secret_id] = known[secret_id].model_copy(update={"revoked": _now(), "signers": ()})
                self._write(tuple(known.values()))
            return known[secret_id]

    def list(self) -> tuple[WebhookSecret, ...]:
        """All secrets including revoked ones, oldest first. Raises SecretsUnreadable."""
        version = self._file.version()
        if version != self._version:
            self._known, self._version = (() if version is None else _read(self.path)), version
        return self._known

    def active(self, tenant: str, secret_id: str, now: datetime) -> tuple[str, ...]:
        """The secrets to sign with ("whsec_..."), newest first; at least one.

        Raises:
            UnknownSecret: The tenant has no such id, even if another tenant has.
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
        # Without the cause, which would reveal the content of the file.
        raise SecretsUnreadable(f"{path.name} cannot be read: {where}: {first['msg']}") from None


def _signer(now: datetime) -> SigningSecret:
    return SigningSecret(secret=_PREFIX + base64.b64encode(secrets.token_bytes(_SECRET_BYTES)).decode(), created=now)


def _now() -> datetime:
    return datetime.now(UTC).replace(microsecond=0)
