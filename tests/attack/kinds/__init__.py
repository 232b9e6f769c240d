"""Kinds of attacks, in the order in which they run; importing this registers all of them."""

from tests.attack.kinds import bodies, fetcher, media, messages, streams, tenants, tensors, webhooks  # noqa: F401

NAMES = ("fetcher", "webhooks", "tenants", "tensors", "media", "streams", "bodies", "messages")
