"""A small Kubernetes client on top of the official one: plain JSON objects, typed errors, timeouts.

The official client reads the kubeconfig, authenticates and does HTTP. Objects stay the dictionaries that the API server
sends, so that rendered manifests, custom resources and objects of newer servers are all handled alike.
Paths: https://kubernetes.io/docs/reference/using-api/api-concepts/.
"""

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any, Self
from urllib.parse import quote

import urllib3
import yaml
from kubernetes.client import ApiClient, Configuration
from kubernetes.client.exceptions import ApiException
from kubernetes.config import ConfigException, kube_config, load_incluster_config, load_kube_config

from services.operations.cluster.cluster_errors import (
    ClusterError,
    NoKubeconfig,
    NotFound,
    Unreachable,
    error_from_status,
)

Object = dict[str, Any]

_CONNECT_SECONDS, _READ_SECONDS = 5.0, 30.0
_PAGE = 500  # objects per page of a list
_DEFAULT_KUBECONFIG = "~/.kube/config"
_SERVICE_ACCOUNT_NAMESPACE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
_KUBECONFIG_HINT = (
    "set KUBECONFIG or --kubeconfig; `kind export kubeconfig` writes the one of kind, "
    "that of k3s is /etc/rancher/k3s/k3s.yaml"
)


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of object: its `apiVersion`, its plural in URLs, and whether it is namespaced."""

    api_version: str
    plural: str
    namespaced: bool = True

    @property
    def resource(self) -> str:
        """Resource name as in `kubectl` and RBAC, such as "deployments.apps"."""
        group = self.api_version.partition("/")[0] if "/" in self.api_version else ""
        return f"{self.plural}.{group}" if group else self.plural

    def path(self, namespace: str = "", name: str = "", subresource: str = "") -> str:
        """URL path below the server's address; without a namespace, that of all namespaces."""
        parts = ["apis" if "/" in self.api_version else "api", self.api_version]
        if self.namespaced and namespace:
            parts += ["namespaces", quote(namespace, safe="")]
        parts += [self.plural, *([quote(name, safe=":")] if name else []), *([subresource] if subresource else [])]
        return "/" + "/".join(parts)


PODS = Kind("v1", "pods")
SERVICES = Kind("v1", "services")
SECRETS = Kind("v1", "secrets")
CONFIG_MAPS = Kind("v1", "configmaps")
EVENTS = Kind("v1", "events")
CLAIMS = Kind("v1", "persistentvolumeclaims")
QUOTAS = Kind("v1", "resourcequotas")
LIMIT_RANGES = Kind("v1", "limitranges")
NAMESPACES = Kind("v1", "namespaces", namespaced=False)
NODES = Kind("v1", "nodes", namespaced=False)
DEPLOYMENTS = Kind("apps/v1", "deployments")
STATEFUL_SETS = Kind("apps/v1", "statefulsets")
DAEMON_SETS = Kind("apps/v1", "daemonsets")
REPLICA_SETS = Kind("apps/v1", "replicasets")
BUDGETS = Kind("policy/v1", "poddisruptionbudgets")
AUTOSCALERS = Kind("autoscaling/v2", "horizontalpodautoscalers")
STORAGE_CLASSES = Kind("storage.k8s.io/v1", "storageclasses", namespaced=False)
SCALED_OBJECTS = Kind("keda.sh/v1alpha1", "scaledobjects")


class Cluster:
    """A connection to a cluster with a default namespace.

    Every method may raise Unreachable, Unauthorized, Forbidden, NotFound or Rejected. Thread-safe.
    """

    def __init__(self, client: ApiClient, namespace: str) -> None:
        self.namespace = namespace
        self._client = client

    @classmethod
    def connect(cls, kubeconfig: Path | None = None, context: str | None = None, namespace: str | None = None) -> Self:
        """Connects to the cluster of a kubeconfig or, in a pod without one, to the pod's own cluster.

        Args:
            kubeconfig: Path; None for $KUBECONFIG (one or more paths, separated by ":"), else ~/.kube/config.
            context: Context of the kubeconfig; None for the current one.
            namespace: None for the namespace of the context, else "default".

        Raises:
            NoKubeconfig: There is no kubeconfig, or it is invalid.
        """
        configuration = Configuration()
        files = str(kubeconfig) if kubeconfig else os.environ.get("KUBECONFIG") or _DEFAULT_KUBECONFIG
        exists = any(Path(part).expanduser().is_file() for part in files.split(os.pathsep) if part)
        if not exists and kubeconfig is None and os.environ.get("KUBERNETES_SERVICE_HOST"):
            found = _in_cluster(configuration)
        elif not exists:
            raise NoKubeconfig(f"there is no kubeconfig: {files} does not exist", _KUBECONFIG_HINT)
        else:
            found = _from_file(configuration, files, context)
        # Retry a failed connection once: an API server that is being upgraded is back immediately.
        configuration.retries = urllib3.Retry(connect=1, read=1, redirect=5, status=0, other=0)
        return cls(ApiClient(configuration), namespace or found or "default")

    @property
    def address(self) -> str:
        """URL of the API server."""
        return str(self._client.configuration.host)

    def list(self, kind: Kind, namespace: str | None = None, *, labels: str = "", fields: str = "") -> Iterator[Object]:
        """All objects of a kind, fetched page by page.

        Args:
            namespace: None for the default one, empty for all.
            labels, fields: Selectors as in `kubectl get --selector` and `--field-selector`.
        """
        where = self._where(kind, namespace)
        query = {"limit": str(_PAGE), "labelSelector": labels, "fieldSelector": fields}
        while True:
            page = self._json("GET", kind.path(where), "list", kind.resource, where, query=query)
            yield from page.get("items") or ()
            following = (page.get("metadata") or {}).get("continue")
            if not following:
                return
            query["continue"] = following

    def get(self, kind: Kind, name: str, namespace: str | None = None) -> Object:
        """Returns an object. Raises NotFound."""
        where = self._where(kind, namespace)
        return self._json("GET", kind.path(where, name), "get", kind.resource, where)

    def find(self, kind: Kind, name: str, namespace: str | None = None) -> Object | None:
        """Returns an object; None if it does not exist."""
        try:
            return self.get(kind, name, namespace)
        except NotFound:
            return None

    def patch(self, kind: Kind, name: str, changes: Object, subresource: str = "") -> Object:
        """Applies a JSON merge patch (RFC 7386: null removes a field). Returns the new object."""
        where, resource = self._where(kind, None), kind.resource + (f"/{subresource}" if subresource else "")
        headers = {"Content-Type": "application/merge-patch+json"}
        path = kind.path(where, name, subresource)
        return self._json("PATCH", path, "patch", resource, where, body=changes, headers=headers)

    def delete(self, kind: Kind, name: str) -> None:
        """Deletes an object with its own grace period. Raises NotFound."""
        where = self._where(kind, None)
        self._json("DELETE", kind.path(where, name), "delete", kind.resource, where)

    def discover(self, path: str) -> Object | None:
        """Returns a discovery document (/version, /apis/GROUP/VERSION), which anyone may read; None if missing."""
        with suppress(NotFound):
            return self._json("GET", path, "get", path, "")
        return None

    def proxy_get(self, pod: str, port: int, path: str) -> str:
        """GETs a page of a pod through the API server's proxy. Raises Unreachable also if the pod does not respond."""
        url = PODS.path(self.namespace, f"{pod}:{port}", f"proxy/{path.lstrip('/')}")
        response = self._request("GET", url, "get", "pods/proxy", self.namespace)
        return _read(response).decode(errors="replace")

    def pod_log(self, pod: str, query: Mapping[str, str]) -> Iterator[bytes]:
        """Streams the lines of a pod's log without line ends; `query` is that of `readNamespacedPodLog`."""
        url = PODS.path(self.namespace, pod, "log")
        timeout = (_CONNECT_SECONDS, None) if query.get("follow") == "true" else None
        response = self._request("GET", url, "get", "pods/log", self.namespace, query=query, timeout=timeout)
        rest = b""
        try:
            for piece in response.stream(2**16, decode_content=True):
                *lines, rest = (rest + piece).split(b"\n")
                yield from lines
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise Unreachable(f"the log stream of {pod} was interrupted", "try again") from error
        finally:
            response.close()
        if rest:
            yield rest

    def _where(self, kind: Kind, namespace: str | None) -> str:
        return (self.namespace if namespace is None else namespace) if kind.namespaced else ""

    def _json(self, method: str, path: str, verb: str, resource: str, namespace: str, **options: Any) -> Object:
        data = _read(self._request(method, path, verb, resource, namespace, **options))
        try:
            found = json.loads(data)
        except ValueError:
            found = None
        if not isinstance(found, dict):
            raise Unreachable(f"{self.address} does not respond like a Kubernetes API server", "check the kubeconfig")
        return found

    def _request(
        self,
        method: str,
        path: str,
        verb: str,
        resource: str,
        namespace: str,
        *,
        query: Mapping[str, str] | None = None,
        body: Object | None = None,
        headers: Mapping[str, str] | None = None,
        timeout: tuple[float, float | None] | None = None,
    ) -> urllib3.BaseHTTPResponse:
        """Returns a successful response; its body has not been read yet."""
        request = self._client.param_serialize(
            method,
            path,
            query_params=[(name, value) for name, value in (query or {}).items() if value],
            header_params={"Accept": "application/json, */*", **(headers or {})},
            body=body,
            auth_settings=["BearerToken"],
        )
        try:
            answer = self._client.call_api(*request, _request_timeout=timeout or (_CONNECT_SECONDS, _READ_SECONDS))
        except (urllib3.exceptions.HTTPError, ApiException, OSError) as error:
            raise self._unreachable(error) from error
        response: urllib3.BaseHTTPResponse = answer.response
        if response.status < HTTPStatus.BAD_REQUEST:
            return response
        message = _status_message(_read(response))
        raise error_from_status(response.status, message, verb, resource, namespace)

    def _unreachable(self, error: Exception) -> ClusterError:
        reason = getattr(error, "reason", None) or error
        certificate = "certificate" in str(reason).lower()
        return Unreachable(
            f"the API server at {self.address} cannot be reached: {_cause(reason)}",
            "the certificate-authority in the kubeconfig is not that of the cluster: fetch the kubeconfig again"
            if certificate
            else "check that the cluster is up and reachable from here: `kubectl cluster-info`",
        )


def _from_file(configuration: Configuration, files: str, context: str | None) -> str | None:
    """Reads a kubeconfig. Returns the namespace of its context. Raises NoKubeconfig."""
    try:
        contexts, active = kube_config.list_kube_config_contexts(files)  # type: ignore[no-untyped-call]
        chosen = next((each for each in contexts if each["name"] == context), None) if context else active
        if chosen is None:
            names = ", ".join(str(each["name"]) for each in contexts)
            raise NoKubeconfig(f"the kubeconfig {files} has no context {context}", f"it has {names}")
        load_kube_config(files, chosen["name"], configuration, persist_config=False)  # type: ignore[no-untyped-call]
    except ConfigException as error:
        raise NoKubeconfig(f"the kubeconfig {files} cannot be used: {error}", _KUBECONFIG_HINT) from error
    except (yaml.YAMLError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise NoKubeconfig(f"the kubeconfig {files} is invalid", _KUBECONFIG_HINT) from error
    except OSError as error:
        raise NoKubeconfig(f"the kubeconfig {files} cannot be read: {error.strerror}", _KUBECONFIG_HINT) from error
    namespace = (chosen.get("context") or {}).get("namespace")
    return str(namespace) if namespace else None


def _in_cluster(configuration: Configuration) -> str | None:
    try:
        load_incluster_config(client_configuration=configuration)  # type: ignore[no-untyped-call]
    except ConfigException as error:
        raise NoKubeconfig(f"this pod's service account cannot be used: {error}", _KUBECONFIG_HINT) from error
    with suppress(OSError):
        return _SERVICE_ACCOUNT_NAMESPACE.read_text().strip()
    return None


def _read(response: urllib3.BaseHTTPResponse) -> bytes:
    try:
        return response.data
    except (urllib3.exceptions.HTTPError, OSError) as error:
        raise Unreachable("the API server's response was interrupted", "try again") from error


def _status_message(body: bytes) -> str:
    """The message of a `Status` object; empty for anything else, such as the error page of a proxy in between."""
    try:
        status = json.loads(body)
    except ValueError:
        return ""
    return str(status.get("message") or "") if isinstance(status, dict) else ""


def _cause(reason: object) -> str:
    """The last part of urllib3's message: the error of the operating system or of TLS."""
    text = str(reason).strip().splitlines()[-1] if str(reason).strip() else type(reason).__name__
    return text.rpartition("): ")[2].strip("'\"() ") or text
