"""So many at once, and of these no more than a share for any one tenant."""

from collections import Counter
from dataclasses import dataclass

from services.gateway.http.api_errors import ApiError


def share(limit: int, given: int, *, least: int = 1) -> int:
    """What one tenant may hold of `limit`: `given`, or three quarters of it where that is 0; at least `least`."""
    return min(limit, max(given or -(-limit * 3 // 4), least))


class Places:
    """Counts what all tenants hold together, and what each of them does."""

    def __init__(self, limit: int, tenant_limit: int, what: str) -> None:
        """
        Args:
            limit: What all tenants may hold together.
            tenant_limit: What one of them may hold.
            what: Ends the sentence "LIMIT ..." of a refusal: "requests are running".
        """
        self._limit = limit
        self._tenant_limit = tenant_limit
        self._what = what
        self._taken = 0
        self._by_tenant: Counter[str] = Counter()

    def check(self, tenant: str, amount: int = 1) -> None:
        """Raises ApiError 429 where `amount` more is not to be had."""
        if self._taken + amount > self._limit:
            raise _full(f"{self._limit:,} {self._what}, the limit of this server")
        if self._by_tenant[tenant] + amount > self._tenant_limit:
            raise _full(f"{self._tenant_limit:,} of yours {self._what}, the limit for one tenant")

    def take(self, tenant: str, amount: int = 1) -> None:
        """Takes `amount`, to be given back. Raises ApiError 429 and takes nothing where that is not to be had."""
        self.check(tenant, amount)
        self._taken += amount
        self._by_tenant[tenant] += amount

    def give_back(self, tenant: str, amount: int = 1) -> None:
        """Gives back what was taken."""
        self._taken -= amount
        self._by_tenant[tenant] -= amount
        if not self._by_tenant[tenant]:
            del self._by_tenant[tenant]


@dataclass(slots=True)
class Body:
    """Bytes that one request has brought, or names and holds in memory; in `request.state.body`."""

    places: Places
    tenant: str
    taken: int = 0

    def take(self, size: int) -> None:
        """Counts bytes until the request ends. Raises ApiError 429 where all requests together hold too many."""
        self.places.take(self.tenant, size)
        self.taken += size

    def give_back(self) -> None:
        """The request has ended."""
        self.places.give_back(self.tenant, self.taken)
        self.taken = 0


@dataclass(slots=True)
class Turn:
    """The place of one request: first among the bodies that arrive, then among the requests that run."""

    arriving: Places
    running: Places
    tenant: str
    held: Places | None = None

    def arrive(self) -> None:
        """Raises ApiError 429 where too many arrive, or so many run that this one would be refused later."""
        self.running.check(self.tenant)
        self.arriving.take(self.tenant)
        self.held = self.arriving

    def run(self) -> None:
        """The body is there. Raises ApiError 429 where too many run."""
        self.leave()
        self.running.take(self.tenant)
        self.held = self.running

    def leave(self) -> None:
        """The request has ended."""
        if self.held is not None:
            self.held.give_back(self.tenant)
            self.held = None


def _full(what: str) -> ApiError:
    return ApiError(429, f"{what}. Please try again.", code="overloaded", retry_after_seconds=1)
