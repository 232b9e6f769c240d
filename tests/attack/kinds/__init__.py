"""Kinds of attacks, in the order in which they run; importing this registers all of them."""

from tests.attack.kinds import (  # noqa: F401, I001
    fetcher,
    webhooks,
    tenants,
    keys,
    stores,
    tensors,
    connections,
    streams,
    media,
    bodies,
    messages,
    load,
)

NAMES = (
    *("fetcher", "webhooks", "tenants", "keys", "stores", "tensors", "connections", "streams", "media", "bodies"),
    *("messages", "load"),
)
