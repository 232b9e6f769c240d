"""The development API key of a local stack: created once, stored in a file of mode 0600, reused by every run."""

from pathlib import Path

from services.gateway.http.keys import KeyStore

TENANT = "development"
FILE_NAME = "development-key"


def development_key(home: Path) -> str:
    """The key in `<home>/run/development-key`; a new one if there is none or it was revoked.

    Raises:
        services.gateway.http.keys.KeysUnreadable: The key file is damaged.
    """
    path = home / "run" / FILE_NAME
    store = KeyStore(home)
    if path.exists() and store.find(secret := path.read_text().strip()) is not None:
        return secret
    _, secret = store.create(TENANT, "of the local stack")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    path.touch(mode=0o600)
    path.write_text(secret + "\n")
    return secret
