"""Deletes expired media and abandoned uploads; called periodically."""

from dataclasses import dataclass

from services.shared.media.library import DAY_SECONDS, MediaLibrary
from services.shared.media.records import ROOT, UploadRecord, content_key, records_prefix, upload_key, uploads_prefix
from services.shared.storage.store_errors import ObjectMissing

# A request that started just before an upload timed out may still be running.
_MARGIN_SECONDS = 3_600


@dataclass(frozen=True, slots=True)
class SweepCounts:
    """Number of deleted media and uploads."""

    media: int
    uploads: int


def sweep(library: MediaLibrary) -> SweepCounts:
    """Sweeps all tenants once. Safe to run alongside uploads and other sweeps.

    Raises:
        services.shared.storage.store_errors.StoreUnavailable: The next sweep deletes what is left.
    """
    tenants = list(library.store.folders(ROOT))
    media = sum(_sweep_media(library, tenant) for tenant in tenants)
    return SweepCounts(media, sum(_sweep_uploads(library, tenant) for tenant in tenants))


def _sweep_media(library: MediaLibrary, tenant: str) -> int:
    """Reads only records that were written long enough ago to have expired."""
    now, swept, prefix = library.clock(), 0, records_prefix(tenant)
    for each in library.store.list(prefix):
        if each.modified.timestamp() + library.settings.media_days * DAY_SECONDS > now + _MARGIN_SECONDS:
            continue
        record = library.read(tenant, each.key.removeprefix(prefix).removesuffix(".json"))
        if record is not None and record.expires_at <= now:
            library.remove(tenant, record)
            swept += 1
    return swept


def _sweep_uploads(library: MediaLibrary, tenant: str) -> int:
    """Deletes content with its upload, unless a crash has left an upload record behind for registered media."""
    now, swept, prefix = library.clock(), 0, uploads_prefix(tenant)
    for each in library.store.list(prefix):
        try:
            upload = UploadRecord.model_validate_json(library.store.get(each.key))
        except ObjectMissing:
            continue
        if upload.expires_at + _MARGIN_SECONDS > now:
            continue
        if upload.media_id or _is_media(library, tenant, content_key(tenant, upload.id)):
            library.store.delete(upload_key(tenant, upload.id))
        else:
            library.discard(tenant, upload.id, upload.parts)
        swept += 1
    return swept


def _is_media(library: MediaLibrary, tenant: str, key: str) -> bool:
    """Whether a media record refers to this content. Reads all records of the tenant, but only after a crash."""
    if library.store.stat(key) is None:
        return False
    prefix = records_prefix(tenant)
    ids = (each.key.removeprefix(prefix).removesuffix(".json") for each in library.store.list(prefix))
    return any(record is not None and record.content == key for record in (library.read(tenant, each) for each in ids))
