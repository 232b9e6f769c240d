"""Objects of a callback, in a folder given by its owner, such as a job. Each object is written once.

    delivery.json            payload, URL and secret id
    tries/001.begun.json     an attempt has started; only one of several workers can create this
    tries/001.json           outcome of the attempt

An attempt without an outcome is still running, or its worker died: after a while it counts as failed.
"""

from enum import StrEnum

from pydantic import AwareDatetime

from services.shared.storage.records import Stored


class Delivery(Stored):
    """A requested callback.

    Attributes:
        id: The `webhook-id` of every attempt.
        body: JSON; every attempt sends the same bytes.
        asked: Time of the request.
    """

    id: str
    tenant: str
    url: str
    secret_id: str
    body: str
    asked: AwareDatetime


class AttemptStart(Stored):
    """An attempt that the worker `by` has started."""

    started: AwareDatetime
    by: str


class Attempt(Stored):
    """One attempt and its outcome.

    Attributes:
        status: HTTP status of the response; None if there was none.
        error: Why there was no response, or why nothing was sent; empty if there was a response.
        permanent: A retry would fail, too, whatever the status.
        retry_after_seconds: Requested by the receiver with 429 or 503.
    """

    number: int
    started: AwareDatetime
    seconds: float = 0.0
    status: int | None = None
    error: str = ""
    permanent: bool = False
    retry_after_seconds: float | None = None


class Outcome(StrEnum):
    """How a callback ended."""

    DELIVERED = "delivered"
    STOPPED = "stopped"  # the receiver rejects it, or it must not be sent
    GIVEN_UP = "given_up"  # all attempts failed


class Ended(Stored):
    """Outcome of a callback. `reason` says why it was not delivered; safe to show to the tenant."""

    outcome: Outcome
    reason: str = ""
