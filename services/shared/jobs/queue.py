"""Units that wait for a worker: fair between tenants, then between a tenant's jobs, regardless of their length.

Celery carries tickets, one per unit; which unit a worker gets for its ticket is decided here, when it starts. A job of
ten hours can therefore queue all its clips at once, and a short job that arrives later still gets every second turn.
The order is start-time fair queueing (Goyal et al. 1996) on two levels, tenants and units: a unit's start time is the
tenant's clock when it was queued plus its position in its job, divided by the job's weight.

All of this may be lost at any time: the reconciler queues units that are not done according to the store.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import cast

import redis

from services.shared.jobs.kinds import Priority
from services.shared.jobs.layout import JobId
from services.shared.jobs.state import Unit

WEIGHTS = {Priority.LOW: 0.25, Priority.NORMAL: 1.0, Priority.HIGH: 4.0}
_PREFIX = "lyra:units"
# Clock and turn of a tenant without waiting units are forgotten after this time.
_KEPT_SECONDS = 86_400

# KEYS: turns (tenants with waiting units, by their turn); the tenant's waiting units, clock and next turn; last turn.
# ARGV: tenant, then start offset and member of each unit.
_PUSH = """
local clock = tonumber(redis.call('GET', KEYS[3]) or '0')
local added = 0
for i = 2, #ARGV, 2 do
  added = added + redis.call('ZADD', KEYS[2], 'NX', clock + tonumber(ARGV[i]), ARGV[i + 1])
end
if added > 0 then
  local own = tonumber(redis.call('GET', KEYS[4]) or '0')
  local last = tonumber(redis.call('GET', KEYS[5]) or '0')
  redis.call('ZADD', KEYS[1], 'NX', math.max(own, last), ARGV[1])
end
return added
"""

# KEYS: turns, last turn.
# ARGV: prefixes of waiting units, of clocks and of next turns, seconds that clocks and turns of tenants are kept.
_POP = """
local first = redis.call('ZRANGE', KEYS[1], 0, 0, 'WITHSCORES')
while #first > 0 do
  local tenant, turn = first[1], tonumber(first[2])
  local unit = redis.call('ZPOPMIN', ARGV[1] .. tenant)
  if #unit > 0 then
    redis.call('SET', KEYS[2], turn)
    redis.call('SET', ARGV[2] .. tenant, unit[2], 'EX', ARGV[4])
    redis.call('SET', ARGV[3] .. tenant, turn + 1, 'EX', ARGV[4])
    if redis.call('EXISTS', ARGV[1] .. tenant) == 1 then
      redis.call('ZADD', KEYS[1], turn + 1, tenant)
    else
      redis.call('ZREM', KEYS[1], tenant)
    end
    return {tenant, unit[1]}
  end
  redis.call('ZREM', KEYS[1], tenant)
  first = redis.call('ZRANGE', KEYS[1], 0, 0, 'WITHSCORES')
end
return false
"""


@dataclass(frozen=True, slots=True)
class Waiting:
    """A unit of a job."""

    job: JobId
    unit: Unit

    def __str__(self) -> str:
        return f"{self.job.job}/{self.unit}"


class UnitQueue:
    """One queue of waiting units in Redis.

    Args:
        client: Of Redis.
        name: Of the queue.
    """

    def __init__(self, client: "redis.Redis", name: str) -> None:
        self.name = name
        base = f"{_PREFIX}:{{{name}}}"
        self._client = client
        self._turns, self._last = f"{base}:turns", f"{base}:last"
        self._waiting, self._clocks, self._next = f"{base}:waiting:", f"{base}:clock:", f"{base}:next:"
        self._push = client.register_script(_PUSH)
        self._pop = client.register_script(_POP)

    def push(self, job: JobId, units: Iterable[Unit], priority: Priority = Priority.NORMAL) -> int:
        """Appends units; those that are queued already keep their position. Returns how many are new."""
        arguments: list[str | float] = [job.tenant]
        for position, unit in enumerate(units, 1):
            arguments += [position / WEIGHTS[priority], str(Waiting(job, unit))]
        own = (prefix + job.tenant for prefix in (self._waiting, self._clocks, self._next))
        return cast(int, self._push(keys=[self._turns, *own, self._last], args=arguments)) if len(arguments) > 1 else 0

    def pop(self) -> Waiting | None:
        """Takes the unit whose turn it is; None if none waits."""
        found = cast("tuple[bytes, bytes] | None", self._pop(keys=[self._turns, self._last], args=self._arguments))
        if not found:
            return None
        tenant, member = (part.decode() for part in found)
        job, _, unit = member.partition("/")
        return Waiting(JobId(tenant, job), Unit.parse(unit))

    def __len__(self) -> int:
        tenants = cast("list[bytes]", self._client.zrange(self._turns, 0, -1))
        return sum(self._client.zcard(self._waiting + tenant.decode()) for tenant in tenants)

    @property
    def _arguments(self) -> list[str | float]:
        return [self._waiting, self._clocks, self._next, _KEPT_SECONDS]
