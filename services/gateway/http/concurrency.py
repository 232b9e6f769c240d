"""Limits on concurrent work: for all tenants together, and a share of it for each one."""

from collections import Counter
from dataclasses import dataclass

from services.gateway.http.api_errors import ApiError


def tenant_share(limit: int, configured: int, *, minimum: int = 1) -> int:
    """How much of `limit` one tenant may hold: `configured`, or three quarters if that is 0; at least `minimum`."""
    return min(limit, max(configured or -(-limit * 3 // 4), minimum))


class TenantSemaphore:
    """A semaphore with a limit for all tenants and one for each; it refuses instead of blocking.

    Args:
        limit: What all tenants may hold together.
        tenant_limit: What one of them may hold.
        what: Completes the error message "LIMIT ...": "requests are running".
    """

    def __init__(self, limit: int, tenant_limit: int, what: str) -> None:
        self._limit = limit
        self._tenant_limit = tenant_limit
        self._what = what
        self._held = 0
        self._held_by_tenant: Counter[str] = Counter()

    def check(self, tenant: str, amount: int = 1) -> None:
        """Raises ApiError 429 if `amount` cannot be acquired now."""
        if self._held + amount > self._limit:
            raise _overloaded(f"{self._limit:,} {self._what}, the limit of this server")
        if self._held_by_tenant[tenant] + amount > self._tenant_limit:
            raise _overloaded(f"{self._tenant_limit:,} of yours {self._what}, the limit for one tenant")

    def acquire(self, tenant: str, amount: int = 1) -> None:
        """Acquires all of `amount`. Raises ApiError 429, and acquires nothing, if that exceeds a limit."""
        self.check(tenant, amount)
        self._held += amount
        self._held_by_tenant[tenant] += amount

    def release(self, tenant: str, amount: int = 1) -> None:
        """Releases what was acquired."""
        self._held -= amount
        self._held_by_tenant[tenant] -= amount
        if not self._held_by_tenant[tenant]:
            del self._held_by_tenant[tenant]


@dataclass(slots=True)
class BodyMemory:
    """Bytes that one request holds in memory: its body and the media it refers to. In `request.state.body_memory`."""

    semaphore: TenantSemaphore
    tenant: str
    size: int = 0

    def reserve(self, size: int) -> None:
        """Counts bytes until the request ends. Raises ApiError 429 if all requests together would hold too many."""
        self.semaphore.acquire(self.tenant, size)
        self.size += size

    def release(self) -> None:
        """To be called when the request ends."""
        self.semaphore.release(self.tenant, self.size)
        self.size = 0


@dataclass(slots=True)
class RequestSlot:
    """The slot of one request: among the arriving ones until its body is complete, then among the running ones."""

    arriving: TenantSemaphore
    running: TenantSemaphore
    tenant: str
    held: TenantSemaphore | None = None

    def arrive(self) -> None:
        """Raises ApiError 429 if too many requests are arriving, or so many running that it would be refused later."""
        self.running.check(self.tenant)
        self.arriving.acquire(self.tenant)
        self.held = self.arriving

    def run(self) -> None:
        """To be called once the body is complete. Raises ApiError 429 if too many requests are running."""
        self.release()
        self.running.acquire(self.tenant)
        self.held = self.running

    def release(self) -> None:
        """To be called when the request ends."""
        if self.held is not None:
            self.held.release(self.tenant)
            self.held = None


def _overloaded(what: str) -> ApiError:
    return ApiError(429, f"{what}. Please try again.", code="overloaded", retry_after_seconds=1)
