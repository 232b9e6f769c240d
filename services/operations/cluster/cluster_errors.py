"""What goes wrong between us and a cluster: each error says what, and what to do about it."""

from http import HTTPStatus


class ClusterError(Exception):
    """Something about a cluster cannot be done.

    Args:
        message: What went wrong.
        hint: What to do next; may be empty where the message says it.
    """

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class NoKubeconfig(ClusterError):
    """No cluster is named, or the file that names it cannot be used."""


class Unreachable(ClusterError):
    """The API server does not answer."""


class Unauthorized(ClusterError):
    """The API server does not know who we are."""


class NotFound(ClusterError):
    """There is no such object, or no such kind of object."""


class Refused(ClusterError):
    """The API server refuses a request as it stands."""


class Forbidden(ClusterError):
    """RBAC does not allow it.

    Args:
        verb: As in a Role: get, list, patch, delete.
        resource: As in a Role: "pods", "pods/log", "deployments.apps/scale".
        namespace: Where; empty for the whole cluster.
    """

    def __init__(self, verb: str, resource: str, namespace: str) -> None:
        where = f"in the namespace {namespace}" if namespace else "in the whole cluster"
        flag = f"-n {namespace}" if namespace else "--all-namespaces"
        super().__init__(
            f"you may not {verb} {resource} {where}",
            f"ask for a role that allows it (docs/deploy/cluster.md has one); "
            f"`kubectl auth can-i {verb} {resource} {flag}` tells whether you have it",
        )
        self.verb = verb
        self.resource = resource
        self.namespace = namespace


def answer_error(status: int, message: str, verb: str, resource: str, namespace: str) -> ClusterError:
    """What a status of the API server means.

    Args:
        status: HTTP status.
        message: Of the `Status` object that came with it; may be empty.
        verb, resource, namespace: What was tried, as in `Forbidden`.
    """
    what = f"{verb} {resource}"
    match status:
        case HTTPStatus.UNAUTHORIZED:
            return Unauthorized(
                "the API server does not accept your credentials",
                "log in to the cluster again; `kubectl auth whoami` tells who you are to it",
            )
        case HTTPStatus.FORBIDDEN:
            return Forbidden(verb, resource, namespace)
        case HTTPStatus.NOT_FOUND:
            return NotFound(message or f"{what}: there is none")
        case _ if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            return Unreachable(
                f"the API server could not {what}: {message or f'status {status}'}", "try again in a moment"
            )
        case _:
            return Refused(f"the API server refuses to {what}: {message or f'status {status}'}")
