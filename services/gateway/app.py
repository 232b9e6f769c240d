"""The gateway as an ASGI application."""

import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from fastapi import APIRouter, FastAPI, Request, Response
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect

from services.gateway.api_groups import discover_routers
from services.gateway.http.api_errors import install_handlers
from services.gateway.http.auth import ApiKeyMiddleware
from services.gateway.http.client_addresses import ClientAddressMiddleware
from services.gateway.http.concurrency import TenantSemaphore, tenant_share
from services.gateway.http.keys import KeyStore
from services.gateway.http.limits import BodyTimeouts, DrainRefusedBodies, HeaderLimits, RequestLimits, UploadLimits
from services.gateway.http.rate_limits import RateLimits
from services.gateway.http.route_markers import Marker, marked_paths, paths
from services.gateway.http.streaming import ClientDisconnected
from services.gateway.http.telemetry import Telemetry
from services.gateway.jobs.service import JobsApi
from services.gateway.settings import GatewaySettings
from services.shared.jobs.dispatch import Dispatcher, make_celery, open_redis
from services.shared.jobs.service import JobService
from services.shared.jobs.store import JobStore
from services.shared.jobs.wait_reasons import WaitReasons
from services.shared.media.library import MediaLibrary
from services.shared.outbound.fetcher import Fetcher
from services.shared.pipeline.clients import Deadlines, ModelClients
from services.shared.rpc.credentials import ClientCredentials
from services.shared.storage.client import ObjectStore
from services.shared.webhooks.deliveries import Webhooks
from services.shared.webhooks.secrets import SecretStore

# Of forms that FastAPI reads into memory: one recording and a few short fields.
_FORM_LIMITS: Any = {"max_files": 1, "max_fields": 64, "max_part_size": 256 * 2**10}


def create_app(settings: GatewaySettings) -> FastAPI:
    """Builds the gateway. Until the model services are available, requests get 503.

    Raises:
        SecretFileError: A file of tokens or certificates cannot be used.
    """
    credentials = ClientCredentials.from_settings(settings)
    rate_limits = RateLimits(settings, settings.redis_url)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        deadlines = Deadlines(
            encode=settings.encode_seconds,
            transcribe=settings.transcribe_seconds,
            generate=settings.answer_seconds,
            synthesize=settings.answer_seconds,
        )
        app.state.clients = ModelClients.open(settings.addresses(), deadlines, credentials)
        app.state.media.decoders.start()
        yield
        await rate_limits.close()
        await app.state.clients.close()
        await run_in_threadpool(app.state.media.decoders.close)

    app = FastAPI(
        title="Lyra",
        summary="Text, pictures and speech in; text and speech out. OpenAI-compatible.",
        version="0.1.0",
        lifespan=lifespan,
        docs_url="/docs" if settings.docs else None,
        openapi_url="/openapi.json" if settings.docs else None,
        redoc_url=None,
        separate_input_output_schemas=False,
        form_limits=_FORM_LIMITS,
    )
    app.state.settings = settings
    app.state.created = int(time.time())
    app.state.media = MediaLibrary(ObjectStore(settings), settings)
    app.state.jobs = _jobs(app.state.media.store, settings)
    routers = discover_routers()
    for router in routers:
        app.include_router(router)
    install_handlers(app)
    app.add_exception_handler(ClientDisconnected, _client_disconnected)
    app.add_exception_handler(ClientDisconnect, _client_disconnected)
    _add_middleware(app, routers, settings, rate_limits)
    _leave_out_422(app)
    return app


def _jobs(objects: ObjectStore, settings: GatewaySettings) -> JobsApi:
    store, redis = JobStore(objects, settings.job_retention), open_redis(settings)
    service = JobService(store, Dispatcher(redis, make_celery(settings)), settings)
    fetcher, secrets = Fetcher(settings), SecretStore(settings.secrets_path(settings.home))
    webhooks = Webhooks(objects, secrets, fetcher, settings)
    return JobsApi(objects, store, service, WaitReasons(redis), webhooks, secrets, fetcher)


def _add_middleware(
    app: FastAPI, routers: Sequence[APIRouter], settings: GatewaySettings, rate_limits: RateLimits
) -> None:
    """Adds middleware from the inside out: the last one added handles a request first."""
    docs_paths = [path for path in (app.docs_url, app.openapi_url) if path is not None]
    public_paths = marked_paths(routers, Marker.PUBLIC).union(docs_paths)
    _add_limits(app, routers, settings)
    app.add_middleware(ApiKeyMiddleware, keys=KeyStore(settings.home), public_paths=public_paths, limits=rate_limits)
    app.add_middleware(DrainRefusedBodies)
    app.add_middleware(HeaderLimits)
    app.add_middleware(Telemetry, known=(*paths(routers), *docs_paths), public_paths=public_paths)
    app.add_middleware(ClientAddressMiddleware, trusted=settings.proxies)


def _add_limits(app: FastAPI, routers: Sequence[APIRouter], settings: GatewaySettings) -> None:
    upload_paths = marked_paths(routers, Marker.ACCEPTS_UPLOAD)
    body, rate = settings.max_body_bytes, settings.min_body_bytes_per_second
    bodies, arriving = max(settings.max_bodies_bytes, body), settings.max_arriving
    running, own_running = settings.max_running, tenant_share(settings.max_running, settings.max_running_per_tenant)
    uploads, own_uploads = settings.max_uploads, tenant_share(settings.max_uploads, settings.max_uploads_per_tenant)
    app.add_middleware(
        RequestLimits,
        max_body_bytes=body,
        max_plain_bytes=min(settings.max_json_bytes, body),
        bodies=TenantSemaphore(bodies, tenant_share(bodies, 0, minimum=body), "bytes of request bodies are in memory"),
        arriving=TenantSemaphore(arriving, tenant_share(arriving, 0), "requests are arriving"),
        running=TenantSemaphore(running, own_running, "requests are running"),
        timeouts=BodyTimeouts(
            total_seconds=settings.body_seconds,
            idle_seconds=settings.body_seconds,
            grace_seconds=settings.body_grace_seconds,
            min_bytes_per_second=rate,
        ),
        media_paths=marked_paths(routers, Marker.ACCEPTS_MEDIA),
        upload_paths=upload_paths,
    )
    app.add_middleware(
        UploadLimits,
        paths=upload_paths,
        max_bytes=settings.max_media_bytes,
        timeouts=BodyTimeouts(
            total_seconds=settings.upload_seconds,
            idle_seconds=settings.upload_idle_seconds,
            grace_seconds=settings.body_grace_seconds,
            min_bytes_per_second=rate,
        ),
        running=TenantSemaphore(uploads, own_uploads, "uploads are running"),
    )


async def _client_disconnected(request: Request, error: Exception) -> Response:
    return Response(status_code=499)


def _leave_out_422(app: FastAPI) -> None:
    """Removes 422 from the OpenAPI document: requests that do not fit a schema get 400 here."""
    describe = app.openapi

    def openapi() -> dict[str, Any]:
        document = describe()
        for path in document["paths"].values():
            for operation in path.values():
                operation["responses"].pop("422", None)
        for name in ("HTTPValidationError", "ValidationError"):
            document.get("components", {}).get("schemas", {}).pop(name, None)
        return document

    app.openapi = openapi  # type: ignore[method-assign]
