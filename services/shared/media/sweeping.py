"""Media past their time and uploads that nobody completed go; called again and again, by whoever keeps house."""

from dataclasses import dataclass

from services.shared.media.library import DAY_SECONDS, MediaLibrary
from services.shared.media.records import ROOT, UploadRecord, content_key, records_prefix, upload_key, uploads_prefix
from services.shared.storage.store_errors import ObjectMissing

# A request that began just before an upload's time was over may still be at work.
_MARGIN_SECONDS = 3_600


@dataclass(frozen=True, slots=True)
class Swept:
    """How many media had expired, and how many uploads were over."""

    media: int
    uploads: int


def sweep(library: MediaLibrary) -> Swept:
    """One round over all tenants. Safe beside uploads, and beside another sweep.

    Raises:
        services.shared.storage.store_errors.StoreUnavailable: The next round finds what this one has left.
    """
    tenants = list(library.store.folders(ROOT))
    media = sum(_sweep_media(library, tenant) for tenant in tenants)
    return Swept(media, sum(_sweep_uploads(library, tenant) for tenant in tenants))


def _sweep_media(library: MediaLibrary, tenant: str) -> int:
    """A record is read only where it was written so long ago that it may have expired."""
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
    """Content goes with its upload, except where a crash came between writing its media record and this."""
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
    """Whether a record has this content; looks through all of the tenant's, for what is left of a crash."""
    if library.store.stat(key) is None:
        return False
    prefix = records_prefix(tenant)
    ids = (each.key.removeprefix(prefix).removesuffix(".json") for each in library.store.list(prefix))
    return any(record is not None and record.content == key for record in (library.read(tenant, each) for each in ids))
