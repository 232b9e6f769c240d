"""Clients that a worker process uses, each created on first use: after the fork, once per process."""

import asyncio
import threading
from collections.abc import Callable, Coroutine
from functools import cached_property
from typing import Any, TypeVar

import redis
from celery import Celery

from services.shared.jobs.dispatch import Dispatcher, open_redis
from services.shared.jobs.layout import JobId
from services.shared.jobs.store import JobStore
from services.shared.jobs.wait_reasons import WaitReasons
from services.shared.outbound.fetcher import Fetcher
from services.shared.pipeline.clients import Deadlines, ModelClients
from services.shared.rpc.credentials import ClientCredentials
from services.shared.sandbox.decoders import Decoders
from services.shared.storage.client import ObjectStore
from services.shared.webhooks.deliveries import Webhooks
from services.shared.webhooks.secrets import SecretStore
from services.worker.leases import Leases
from services.worker.settings import WorkerSettings

T = TypeVar("T")


class WorkerContext:
    """Object store, Redis, leases and model clients of one process."""

    def __init__(self, settings: WorkerSettings, celery: Celery) -> None:
        self.settings = settings
        self._celery = celery
        self._opening = threading.Lock()
        self.store_was_full = False  # at the last write

    @cached_property
    def store(self) -> ObjectStore:
        return ObjectStore(self.settings)

    @cached_property
    def job_store(self) -> JobStore:
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
    def wait_reasons(self) -> WaitReasons:
        return WaitReasons(self.redis)

    def check_room(self, job: JobId) -> None:
        """Call before work whose result could not be stored otherwise. Raises StoreFull, StoreUnavailable.

        Costs nothing unless the store was full: then it is probed by a write that changes nothing.
        """
        if self.store_was_full:
            self.job_store.mark_active(job)
            self._opening = threading.Lock()
        self.store_was_full = False

    @cached_property
    def webhooks(self) -> Webhooks:
        secrets = SecretStore(self.settings.secrets_path(self.settings.home))
        return Webhooks(self.store, secrets, Fetcher(self.settings), self.settings)

    @staticmethod
    def seen_key(job: JobId) -> str:
        """Redis key that exists while the reconciler skips a job."""
        return f"lyra:seen:{job.prefix}"

    def open(self) -> None:
        """Creates what the threads of a pool share, once."""
        with self._opening:
            for part in (self.job_store, self.leases, self.dispatcher, self.wait_reasons, self._services):
                assert part is not None

    def run(self, work: Callable[[ModelClients], Coroutine[Any, Any, T]]) -> T:
        """Runs `work` with the model clients in this process's event loop, and waits for its result."""
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
