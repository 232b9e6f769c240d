"""Authenticates callers of a service, before any message of a call is read."""

import time
from collections.abc import Awaitable, Callable
from typing import Any, Self

import grpc

from services.shared import telemetry
from services.shared.rpc.credentials import SCHEME, TOKEN_METADATA
from services.shared.rpc.grpc_types import Handler, ServerInterceptor
from services.shared.rpc.interceptors import rejecting_handler
from services.shared.rpc.tokens import TokenFile
from services.shared.service_errors import Forbidden, ServiceError, Unauthenticated
from services.shared.settings import AdapterServiceSettings, ServiceSettings

log = telemetry.get_logger(__name__)

HEALTH = "/grpc.health.v1.Health/"  # kubelets and load balancers send no token
OPERATOR_METHODS = frozenset({"/lyra.v1.Adapters/LoadAdapter", "/lyra.v1.Adapters/UnloadAdapter"})
_LOG_SECONDS = 1.0


class Authentication(ServerInterceptor):
    """Rejects calls without a valid token, and calls to operator methods without the operator's token.

    Args:
        token: Shared by the services; None if mutual TLS or the loopback address restricts access instead.
        operator: The operators' token, valid for every method; None disables the operator methods.
    """

    def __init__(self, token: TokenFile | None = None, operator: TokenFile | None = None) -> None:
        self._token = token
        self._operator = operator
        self._quiet_until = 0.0

    @classmethod
    def from_settings(cls, settings: ServiceSettings) -> Self:
        """Raises SecretFileError."""
        operator = settings.operator_token_file if isinstance(settings, AdapterServiceSettings) else None
        return cls(
            TokenFile(settings.service_token_file) if settings.service_token_file else None,
            TokenFile(operator) if operator else None,
        )

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler:
        method = handler_call_details.method
        error = None if method.startswith(HEALTH) else self._check(method, _token(handler_call_details))
        if error is None:
            return await continuation(handler_call_details)
        telemetry.CALLS_REFUSED.labels(error.code.name).inc()
        return rejecting_handler(error, self._log_rejection)

    def _check(self, method: str, given: str) -> ServiceError | None:
        is_operator = self._operator is not None and self._operator.accepts(given)
        if self._token is not None and not is_operator and not self._token.accepts(given):
            return Unauthenticated("the token is not valid" if given else "a token is required")
        if method in OPERATOR_METHODS and self._operator is None:
            return Forbidden(
                "adapters are loaded at startup (LYRA_ADAPTERS); "
                "set LYRA_OPERATOR_TOKEN_FILE to let operators load and unload them at run time"
            )
        if method in OPERATOR_METHODS and not is_operator:
            return Forbidden("loading and unloading adapters requires the operator's token")
        return None

    def _log_rejection(self, peer: str, error: ServiceError) -> None:
        """Logs at most one line per second, so that unauthenticated clients cannot fill the disk."""
        if time.monotonic() >= self._quiet_until:
            self._quiet_until = time.monotonic() + _LOG_SECONDS
            log.warning("call refused", peer=peer, code=error.code.name, reason=error.message)


def _token(details: grpc.HandlerCallDetails) -> str:
    metadata: Any = details.invocation_metadata or ()
    for key, value in metadata:
        if key == TOKEN_METADATA and isinstance(value, str) and value.startswith(SCHEME):
            return value.removeprefix(SCHEME)
    return ""
