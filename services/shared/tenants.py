"""Names of tenants: they travel in headers and are folders in the object store."""

import re

_PLAIN = re.compile(r"(?!\.+$)[A-Za-z0-9._-]{1,64}")


def check_tenant(tenant: str) -> None:
    """Returns where `tenant` is a plain word. Raises ValueError."""
    if not _PLAIN.fullmatch(tenant):
        raise ValueError("tenant: has to be 1 to 64 letters, digits, dots, dashes or underscores, and not dots alone")
