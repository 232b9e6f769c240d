"""The Kubernetes API, as much of it as we need, on the official client: plain JSON objects, typed errors, time-outs.

The official client reads the kubeconfig, logs in and speaks HTTP. Objects stay the dictionaries that the API sends:
rendered manifests, custom resources and objects of a server newer than the client are read alike.
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

from services.operations.cluster.cluster_errors import ClusterError, NoKubeconfig, NotFound, Unreachable, answer_error

Object = dict[str, Any]

_CONNECT_SECONDS, _READ_SECONDS = 5.0, 30.0
_PAGE = 500  # objects of one answer to a list
_DEFAULT_KUBECONFIG = "~/.kube/config"
_SERVICE_ACCOUNT_NAMESPACE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
_KUBECONFIG_HINT = (
    "name one with KUBECONFIG or --kubeconfig; `kind export kubeconfig` writes that of kind, "
    "k3s keeps its own in /etc/rancher/k3s/k3s.yaml"
)


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of object: its group and version as in `apiVersion`, its name in URLs, and whether namespaces hold it."""

    api: str
    plural: str
    namespaced: bool = True

    @property
    def resource(self) -> str:
        """As `kubectl` and roles name it, as in "deployments.apps"."""
        group = self.api.partition("/")[0] if "/" in self.api else ""
        return f"{self.plural}.{group}" if group else self.plural

    def path(self, namespace: str = "", name: str = "", subresource: str = "") -> str:
        """Below the server's address; without a namespace, all namespaces."""
        parts = ["apis" if "/" in self.api else "api", self.api]
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
    """A cluster, and the namespace that is meant where none is named.

    Every method raises Unreachable, Unauthorized, Forbidden, NotFound or Refused. May be shared by threads.
    """

    def __init__(self, client: ApiClient, namespace: str) -> None:
        self.namespace = namespace
        self._client = client

    @classmethod
    def connect(cls, kubeconfig: Path | None = None, context: str | None = None, namespace: str | None = None) -> Self:
        """The cluster that a kubeconfig names, else, in a pod, the cluster that runs it.

        Args:
            kubeconfig: File; None for $KUBECONFIG (may be several, with ":" between), else ~/.kube/config.
            context: Of the file; None for its current one.
            namespace: None for that of the context, else "default".

        Raises:
            NoKubeconfig: none is there, or it cannot be used.
        """
        configuration = Configuration()
        files = str(kubeconfig) if kubeconfig else os.environ.get("KUBECONFIG") or _DEFAULT_KUBECONFIG
        there = any(Path(part).expanduser().is_file() for part in files.split(os.pathsep) if part)
        if not there and kubeconfig is None and os.environ.get("KUBERNETES_SERVICE_HOST"):
            found = _in_cluster(configuration)
        elif not there:
            raise NoKubeconfig(f"there is no kubeconfig: {files} is not there", _KUBECONFIG_HINT)
        else:
            found = _from_file(configuration, files, context)
        # One more try where a connection fails: an API server that is being upgraded comes back at once.
        configuration.retries = urllib3.Retry(connect=1, read=1, redirect=5, status=0, other=0)
        return cls(ApiClient(configuration), namespace or found or "default")

    @property
    def address(self) -> str:
        """URL of the API server."""
        return str(self._client.configuration.host)

    def list(self, kind: Kind, namespace: str | None = None, *, labels: str = "", fields: str = "") -> Iterator[Object]:
        """All objects of a kind, page by page.

        Args:
            namespace: None for the cluster's own, empty for all.
            labels, fields: Selectors, as `kubectl get -l` and `--field-selector` take them.
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
        """An object. Raises NotFound."""
        where = self._where(kind, namespace)
        return self._json("GET", kind.path(where, name), "get", kind.resource, where)

    def find(self, kind: Kind, name: str, namespace: str | None = None) -> Object | None:
        """An object; None where there is none."""
        try:
            return self.get(kind, name, namespace)
        except NotFound:
            return None

    def patch(self, kind: Kind, name: str, changes: Object, subresource: str = "") -> Object:
        """Changes an object by a JSON merge patch (RFC 7386: null takes a field away). Returns what it is now."""
        where, resource = self._where(kind, None), kind.resource + (f"/{subresource}" if subresource else "")
        headers = {"Content-Type": "application/merge-patch+json"}
        path = kind.path(where, name, subresource)
        return self._json("PATCH", path, "patch", resource, where, body=changes, headers=headers)

    def delete(self, kind: Kind, name: str) -> None:
        """Deletes an object, with its own grace period. Raises NotFound."""
        where = self._where(kind, None)
        self._json("DELETE", kind.path(where, name), "delete", kind.resource, where)

    def discover(self, path: str) -> Object | None:
        """What the server says of itself (/version, /apis/GROUP/VERSION), which everybody may ask; None for nothing."""
        with suppress(NotFound):
            return self._json("GET", path, "get", path, "")
        return None

    def pod_page(self, pod: str, port: int, path: str) -> str:
        """An HTTP page of a pod, through the API server. Raises Unreachable also where the pod does not answer."""
        url = PODS.path(self.namespace, f"{pod}:{port}", f"proxy/{path.lstrip('/')}")
        response = self._request("GET", url, "get", "pods/proxy", self.namespace)
        return _read(response).decode(errors="replace")

    def pod_log(self, pod: str, query: Mapping[str, str]) -> Iterator[bytes]:
        """Lines of a pod's log as they come, without line ends; `query` as in the API's `readNamespacedPodLog`."""
        url = PODS.path(self.namespace, pod, "log")
        timeout = (_CONNECT_SECONDS, None) if query.get("follow") == "true" else None
        response = self._request("GET", url, "get", "pods/log", self.namespace, query=query, timeout=timeout)
        rest = b""
        try:
            for piece in response.stream(2**16, decode_content=True):
                *lines, rest = (rest + piece).split(b"\n")
                yield from lines
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise Unreachable(f"the log of {pod} broke off", "ask for it again") from error
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
            raise Unreachable(f"{self.address} does not answer like a Kubernetes API server", "check the kubeconfig")
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
        """A response whose status says that all is well; its body is not read yet."""
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
        raise answer_error(response.status, message, verb, resource, namespace)

    def _unreachable(self, error: Exception) -> ClusterError:
        reason = getattr(error, "reason", None) or error
        certificate = "certificate" in str(reason).lower()
        return Unreachable(
            f"the API server at {self.address} cannot be reached: {_why(reason)}",
            "the kubeconfig's certificate-authority is not that of the cluster: fetch the kubeconfig anew"
            if certificate
            else "check that the cluster runs and that you are in its network: `kubectl cluster-info`",
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
        raise NoKubeconfig(f"the kubeconfig {files} cannot be read: it is no kubeconfig", _KUBECONFIG_HINT) from error
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
        raise Unreachable("the API server's answer broke off", "try again") from error


def _status_message(body: bytes) -> str:
    """The message of a `Status` object; empty for anything else, which may be a page of a proxy in between."""
    try:
        status = json.loads(body)
    except ValueError:
        return ""
    return str(status.get("message") or "") if isinstance(status, dict) else ""


def _why(reason: object) -> str:
    """The last part of what urllib3 says, which is the operating system's or TLS' own word."""
    text = str(reason).strip().splitlines()[-1] if str(reason).strip() else type(reason).__name__
    return text.rpartition("): ")[2].strip("'\"() ") or text
