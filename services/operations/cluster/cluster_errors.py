"""Errors of cluster operations, each with a message and a hint."""

from http import HTTPStatus


class ClusterError(Exception):
    """An operation on a cluster failed.

    Args:
        message: What went wrong.
        hint: What to do about it; may be empty.
    """

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class NoKubeconfig(ClusterError):
    """There is no kubeconfig, or it is invalid."""


class Unreachable(ClusterError):
    """The API server does not respond."""


class Unauthorized(ClusterError):
    """The API server does not accept our credentials."""


class NotFound(ClusterError):
    """There is no such object or kind of object."""


class Rejected(ClusterError):
    """The API server rejects a request, or an operation is not allowed on this object."""


class Forbidden(ClusterError):
    """RBAC does not allow it.

    Args:
        verb: As in a Role: get, list, patch, delete.
        resource: As in a Role: "pods", "pods/log", "deployments.apps/scale".
        namespace: Empty for the whole cluster.
    """

    def __init__(self, verb: str, resource: str, namespace: str) -> None:
        where = f"in namespace {namespace}" if namespace else "in all namespaces"
        flag = f"-n {namespace}" if namespace else "--all-namespaces"
        super().__init__(
            f"not allowed to {verb} {resource} {where}",
            f"ask for a role that allows it (docs/deploy/cluster.md) and check with "
            f"`kubectl auth can-i {verb} {resource} {flag}`",
        )
        self.verb = verb
        self.resource = resource
        self.namespace = namespace


def error_from_status(status: int, message: str, verb: str, resource: str, namespace: str) -> ClusterError:
    """The error for an HTTP status of the API server.

    Args:
        status: HTTP status.
        message: Message of the `Status` object in the response; may be empty.
        verb, resource, namespace: The request, as in `Forbidden`.
    """
    what = f"{verb} {resource}"
    match status:
        case HTTPStatus.UNAUTHORIZED:
            return Unauthorized(
                "the API server does not accept your credentials",
                "log in to the cluster again and check with `kubectl auth whoami`",
            )
        case HTTPStatus.FORBIDDEN:
            return Forbidden(verb, resource, namespace)
        case HTTPStatus.NOT_FOUND:
            return NotFound(message or f"{what}: not found")
        case _ if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            return Unreachable(
                f"the API server failed to {what}: {message or f'status {status}'}", "try again in a moment"
            )
        case _:
            return Rejected(f"the API server rejected {what}: {message or f'status {status}'}")
