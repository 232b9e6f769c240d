"""What a worker process has at hand: made on first use, after the fork, once a process."""

import asyncio
import threading
from collections.abc import Callable, Coroutine
from functools import cached_property
from typing import Any, TypeVar

import redis
from celery import Celery

from services.shared.jobs.layout import JobId
from services.shared.jobs.store import JobStore
from services.shared.jobs.tickets import Dispatcher, open_redis
from services.shared.jobs.waits import Waits
from services.shared.outbound.fetcher import Fetcher
from services.shared.pipeline.clients import Deadlines, ModelClients
from services.shared.rpc.credentials import ClientCredentials
from services.shared.sandbox.decoders import Decoders
from services.shared.storage.client import ObjectStore
from services.shared.webhooks.deliveries import Webhooks
from services.shared.webhooks.secrets import SecretStore
from services.worker.lease import Leases
from services.worker.settings import WorkerSettings

T = TypeVar("T")


class WorkerContext:
    """Store, Redis, leases and channels to the services of one process."""

    def __init__(self, settings: WorkerSettings, celery: Celery) -> None:
        self.settings = settings
        self._celery = celery
        self.store_was_full = False  # when it was last written to

    @cached_property
    def store(self) -> ObjectStore:
        return ObjectStore(self.settings)

    @cached_property
    def book(self) -> JobStore:
        return JobStore(self.store, self.settings.job_retention)

    @cached_property
    def decoders(self) -> Decoders:
        return Decoders(self.settings)

    @cached_property
    def redis(self) -> "redis.Redis":
        return open_redis(self.settings)

    @cached_property
    def dispatcher(self) -> Dispatcher:
        return Dispatcher(self.redis, self._celery)

    @cached_property
    def leases(self) -> Leases:
        return Leases(self.redis, self.settings.lease_seconds)

    @cached_property
    def waits(self) -> Waits:
        return Waits(self.redis)

    def ask_for_room(self, job: JobId) -> None:
        """To be called before work whose result will be kept: it would be lost. Raises StoreFull, StoreUnavailable.

        Only a store that was full is asked, by a write that changes nothing.
        """
        if self.store_was_full:
            self.book.wake(job)
            self.store_was_full = False

    @cached_property
    def webhooks(self) -> Webhooks:
        secrets = SecretStore(self.settings.secrets_path(self.settings.home))
        return Webhooks(self.store, secrets, Fetcher(self.settings), self.settings)

    @staticmethod
    def seen_key(job: JobId) -> str:
        """In Redis while the reconciler need not look at a job."""
        return f"lyra:seen:{job.prefix}"

    def open(self) -> None:
        """Makes what threads will share, before there are several."""
        for part in (self.book, self.leases, self.dispatcher, self.waits, self.webhooks, self._services):
            assert part is not None

    def run(self, work: Callable[[ModelClients], Coroutine[Any, Any, T]]) -> T:
        """Does `work` with channels to the model services, in this process's event loop; returns when it is done."""
        return asyncio.run_coroutine_threadsafe(work(self._services), self._loop).result()

    @cached_property
    def _loop(self) -> asyncio.AbstractEventLoop:
        loop = asyncio.new_event_loop()
        threading.Thread(target=loop.run_forever, name="event-loop", daemon=True).start()
        return loop

    @cached_property
    def _services(self) -> ModelClients:
        settings = self.settings
        deadlines = Deadlines(
            encode=settings.clip_seconds, transcribe=settings.clip_seconds, generate=settings.answer_seconds
        )

        async def opened() -> ModelClients:
            return ModelClients.open(settings.addresses(), deadlines, ClientCredentials.from_settings(settings))

        return asyncio.run_coroutine_threadsafe(opened(), self._loop).result()
