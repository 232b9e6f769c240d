"""What the object store holds of a callback, in a folder that its owner (a job) gives it; each object is written once.

    delivery.json            what is sent, where to, signed by which secret
    tries/001.begun.json     somebody sends it now; of several workers one gets to write this
    tries/001.json           what came of it

A try that has begun and has no end is one whose worker died, or that runs still: it counts as failed after a while.
"""

from enum import StrEnum

from pydantic import AwareDatetime

from services.shared.storage.records import Stored


class Delivery(Stored):
    """A callback that was asked for.

    Attributes:
        id: The `webhook-id` of every try.
        body: JSON, sent to the byte in every try.
    """

    id: str
    tenant: str
    url: str
    secret_id: str
    body: str
    asked: AwareDatetime


class Begun(Stored):
    """A try that the worker `by` has begun."""

    started: AwareDatetime
    by: str


class Try(Stored):
    """One try and what came of it.

    Attributes:
        status: HTTP status of the answer; None where there was none.
        error: Why there was no answer, or that nothing was sent; empty where there was one.
        permanent: Trying again changes nothing, whatever the status.
        retry_after_seconds: That the receiver asked for with 429 or 503.
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
    STOPPED = "stopped"  # the receiver refuses it, or it may not be sent
    GIVEN_UP = "given_up"  # nobody took it in all the time there was


class Ended(Stored):
    """A callback that is over. `reason` says why it was not delivered; safe to show to its tenant."""

    outcome: Outcome
    reason: str = ""
