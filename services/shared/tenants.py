"""Names of tenants, which are used in headers and as folders of the object store."""

import re

_PLAIN = re.compile(r"(?!\.+$)[A-Za-z0-9._-]{1,64}")


def check_tenant(tenant: str) -> None:
    """Raises ValueError if `tenant` is not a valid name."""
    if not _PLAIN.fullmatch(tenant):
        raise ValueError("tenant: must be 1 to 64 letters, digits, dots, dashes or underscores, and not only dots")
