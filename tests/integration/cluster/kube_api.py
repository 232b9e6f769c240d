"""A Kubernetes API server for tests: real HTTP and real objects, but no controllers.

Implements what `lyra cluster` uses of https://kubernetes.io/docs/reference/using-api/api-concepts/: discovery, lists
with selectors and pagination, single objects, merge patches, the scale subresource, deletion, streamed logs, the pod
proxy, bearer tokens, and RBAC as a list of denied requests or as the rules of a role.
"""

import copy
import json
import re
import secrets
import threading
import urllib.request
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.parse import parse_qsl, unquote, urlsplit

import yaml

Object = dict[str, Any]
Key = tuple[str, str, str, str]  # apiVersion, plural, namespace, name

# Built-in kinds: plural and kind by apiVersion.
KINDS = {
    "v1": {
        "pods": "Pod",
        "services": "Service",
        "secrets": "Secret",
        "configmaps": "ConfigMap",
        "events": "Event",
        "nodes": "Node",
        "namespaces": "Namespace",
        "serviceaccounts": "ServiceAccount",
        "resourcequotas": "ResourceQuota",
        "limitranges": "LimitRange",
        "persistentvolumeclaims": "PersistentVolumeClaim",
    },
    "apps/v1": {
        "deployments": "Deployment",
        "statefulsets": "StatefulSet",
        "daemonsets": "DaemonSet",
        "replicasets": "ReplicaSet",
    },
    "batch/v1": {"jobs": "Job"},
    "policy/v1": {"poddisruptionbudgets": "PodDisruptionBudget"},
    "autoscaling/v2": {"horizontalpodautoscalers": "HorizontalPodAutoscaler"},
    "networking.k8s.io/v1": {"networkpolicies": "NetworkPolicy", "ingresses": "Ingress"},
    "storage.k8s.io/v1": {"storageclasses": "StorageClass"},
}
KEDA = {"scaledobjects": "ScaledObject", "triggerauthentications": "TriggerAuthentication"}
PROMETHEUS = {"servicemonitors": "ServiceMonitor", "prometheusrules": "PrometheusRule", "podmonitors": "PodMonitor"}
_CLUSTER_WIDE = {"nodes", "namespaces", "storageclasses"}
_OBJECT = re.compile(
    r"/(?P<api>api/v1|apis/[^/]+/[^/]+)(?:/namespaces/(?P<namespace>[^/]+))?/(?P<plural>[a-z]+)"
    r"(?:/(?P<name>[^/]+)(?:/(?P<subresource>[a-z]+)(?P<rest>/.*)?)?)?"
)
_NAMESPACE = re.compile(r"/api/v1/namespaces/(?P<name>[^/]+)")


class KubeApi:
    """The server and its objects. Tests add and change objects directly; `requests` records the requests."""

    def __init__(self, version: str = "v1.37.2") -> None:
        self.token = secrets.token_hex(8)
        self.kinds = copy.deepcopy(KINDS)
        self.version = version
        self.page = 500
        self.requests: list[str] = []
        self.denied: set[tuple[str, str]] = set()  # (verb, resource), as in ("list", "nodes")
        self.rights: set[tuple[str, str, str]] = set()  # (group, resource, verb) that requests needed
        self.rules: list[Object] | None = None  # of a role; None allows everything that is not denied
        self.upstreams: dict[str, str] = {}  # URL behind the proxy, by pod
        self.logs: dict[str, list[str]] = defaultdict(list)
        self.on_change: Callable[[str, Object], None] = lambda verb, thing: None
        self._objects: dict[Key, Object] = {}
        self._changed = threading.Condition()
        self._closed = False
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._http.daemon_threads = True
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._http.server_address[1]}"

    def close(self) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()

    def kubeconfig(self, path: Path, namespace: str = "lyra") -> Path:
        """Writes a kubeconfig for this server."""
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "test",
            "clusters": [{"name": "test", "cluster": {"server": self.url}}],
            "users": [{"name": "me", "user": {"token": self.token}}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "me", "namespace": namespace}}],
        }
        path.write_text(yaml.safe_dump(config))
        return path

    def add(self, *objects: Object) -> None:
        """Adds objects, replacing those of the same name."""
        for each in objects:
            kept = copy.deepcopy(each)
            plural = self._plural(kept["apiVersion"], kept["kind"])
            kept["metadata"].setdefault("uid", secrets.token_hex(8))
            namespace = "" if plural in _CLUSTER_WIDE else kept["metadata"].setdefault("namespace", "lyra")
            with self._changed:
                self._objects[kept["apiVersion"], plural, namespace, kept["metadata"]["name"]] = kept

    def find(self, kind: str, name: str) -> Object | None:
        """A copy of an object in any namespace; None if there is none."""
        with self._changed:
            for each in self._objects.values():
                if each["kind"] == kind and each["metadata"]["name"] == name:
                    return copy.deepcopy(each)
        return None

    def all(self, kind: str) -> list[Object]:
        with self._changed:
            return [copy.deepcopy(each) for each in self._objects.values() if each["kind"] == kind]

    def remove(self, kind: str, name: str) -> None:
        with self._changed:
            for key, each in list(self._objects.items()):
                if each["kind"] == kind and each["metadata"]["name"] == name:
                    del self._objects[key]

    def log(self, pod: str, *lines: str) -> None:
        """Appends lines to a pod's log and sends them to its followers."""
        with self._changed:
            self.logs[pod] += lines
            self._changed.notify_all()

    def end_logs(self) -> None:
        """Ends all log streams."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def answer(self, method: str, target: str, body: bytes, token: str) -> tuple[int, Object | str | Iterator[bytes]]:
        """Status and body of the response to a request; the body of a log is an iterator."""
        parts = urlsplit(target)
        path, query = unquote(parts.path), dict(parse_qsl(parts.query))
        with self._changed:
            self.requests.append(f"{method} {path}")
        if token != f"Bearer {self.token}":
            return _status(401, "Unauthorized")
        discovered = self._discover(path)
        if discovered is not None:
            return discovered
        found = _NAMESPACE.fullmatch(path)
        if found and self._allowed("get", "v1", "namespaces"):
            return self._one(method, ("v1", "namespaces", "", found["name"]), "", body)
        if found:
            return _status(403, "namespaces is forbidden")
        found = _OBJECT.fullmatch(path)
        api = found["api"].removeprefix("apis/").removeprefix("api/") if found else ""
        if not found or found["plural"] not in self.kinds.get(api, {}):
            return _status(404, "the server could not find the requested resource")
        plural, name, subresource = found["plural"], found["name"] or "", found["subresource"] or ""
        verb = {"PATCH": "patch", "DELETE": "delete"}.get(method, "get" if name else "list")
        resource = plural + (f"/{subresource}" if subresource else "")
        if not self._allowed(verb, api, resource) or (verb, resource) in self.denied:
            return _status(403, f'{plural} is forbidden: User "me" cannot {verb} resource "{resource}"')
        if not name:
            return self._list(api, plural, found["namespace"] or "", query)
        if subresource == "proxy":
            return self._proxy(name, found["rest"] or "/")
        if subresource == "log":
            return self._log(name, found["namespace"] or "", query)
        return self._one(method, (api, plural, found["namespace"] or "", name), subresource, body)

    def _allowed(self, verb: str, api: str, resource: str) -> bool:
        group = api.partition("/")[0] if "/" in api else ""
        self.rights.add((group, resource, verb))
        return self.rules is None or any(
            group in rule["apiGroups"] and resource in rule["resources"] and verb in rule["verbs"]
            for rule in self.rules
        )

    def _discover(self, path: str) -> tuple[int, Object] | None:
        if path == "/version" or path == "/version/":
            major, minor = self.version.removeprefix("v").split(".")[:2]
            return 200, {"major": major, "minor": minor, "gitVersion": self.version}
        if path == "/apis":
            groups = {api.partition("/")[0] for api in self.kinds if "/" in api}
            return 200, {"kind": "APIGroupList", "groups": [{"name": group} for group in sorted(groups)]}
        api = path.removeprefix("/apis/").removeprefix("/api/")
        if path.startswith(("/api/", "/apis/")) and api in self.kinds:
            kinds = [{"name": plural, "kind": kind} for plural, kind in self.kinds[api].items()]
            return 200, {"kind": "APIResourceList", "groupVersion": api, "resources": kinds}
        return None

    def _list(self, api: str, plural: str, namespace: str, query: dict[str, str]) -> tuple[int, Object]:
        with self._changed:
            found = [
                _without_kind(each)
                for (of, kind, where, _), each in sorted(self._objects.items())
                if (of, kind) == (api, plural) and namespace in ("", where)
            ]
        found = [each for each in found if _labels_match(each, query.get("labelSelector", ""))]
        found = [each for each in found if _fields_match(each, query.get("fieldSelector", ""))]
        start, size = int(query.get("continue") or 0), min(self.page, int(query.get("limit") or self.page))
        more = {"continue": str(start + size)} if start + size < len(found) else {}
        return 200, {"kind": "List", "apiVersion": api, "metadata": more, "items": found[start : start + size]}

    def _one(self, method: str, key: Key, subresource: str, body: bytes) -> tuple[int, Object]:
        with self._changed:
            thing = self._objects.get(key)
            if thing is None:
                return _status(404, f'{key[1]} "{key[3]}" not found')
            if method == "PATCH":
                _merge(thing, json.loads(body))
            if method == "DELETE":
                del self._objects[key]
            seen = copy.deepcopy(thing)
        if method != "GET":
            self.on_change(method, seen)
        return 200, {"kind": "Scale", "spec": seen["spec"]} if subresource == "scale" else seen

    def _proxy(self, name: str, path: str) -> tuple[int, Object | str]:
        pod, _, _ = name.partition(":")
        upstream = self.upstreams.get(pod)
        if upstream is None:
            return _status(503, f"error trying to reach service: dial tcp: no route to {name}")
        try:
            with urllib.request.urlopen(upstream + path) as page:
                return 200, page.read().decode()
        except URLError as error:
            return _status(503, f"error trying to reach service: {error.reason}")

    def _log(self, pod: str, namespace: str, query: dict[str, str]) -> tuple[int, Object | Iterator[bytes]]:
        if ("v1", "pods", namespace, pod) not in self._objects:
            return _status(404, f'pods "{pod}" not found')
        if query.get("previous") == "true":
            return _status(400, f'previous terminated container "{query["container"]}" in pod "{pod}" not found')
        return 200, self._lines(pod, int(query.get("tailLines") or -1), query.get("follow") == "true")

    def _lines(self, pod: str, tail: int, follow: bool) -> Iterator[bytes]:
        at = max(0, len(self.logs[pod]) - tail) if tail >= 0 else 0
        while True:
            with self._changed:
                lines = self.logs[pod][at:]
                at += len(lines)
                if not lines and (not follow or self._closed):
                    return
                if not lines:
                    self._changed.wait()
                    continue
            yield "".join(f"{line}\n" for line in lines).encode()

    def _plural(self, api: str, kind: str) -> str:
        return next(plural for plural, known in self.kinds[api].items() if known == kind)


def _handler(api: KubeApi) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            status, answer = api.answer(self.command, self.path, body, self.headers.get("Authorization", ""))
            if isinstance(answer, dict | str):
                self._whole(status, answer)
            else:
                self._streamed(answer)

        do_PATCH = do_DELETE = do_POST = do_GET

        def _whole(self, status: int, answer: Object | str) -> None:
            data = (json.dumps(answer) if isinstance(answer, dict) else answer).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json" if isinstance(answer, dict) else "text/plain")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def _streamed(self, pieces: Iterable[bytes]) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/plain")
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            with suppress(OSError):  # the client disconnected
                for piece in pieces:
                    self.wfile.write(f"{len(piece):x}\r\n".encode() + piece + b"\r\n")
                    self.wfile.flush()
                self.wfile.write(b"0\r\n\r\n")

        def log_message(self, format: str, *args: Any) -> None:
            """Silent: tests read `requests`."""

    return Handler


def _status(code: int, message: str) -> tuple[int, Object]:
    return code, {"kind": "Status", "apiVersion": "v1", "status": "Failure", "message": message, "code": code}


def _without_kind(thing: Object) -> Object:
    """Items of a list have neither `apiVersion` nor `kind`."""
    return {key: value for key, value in copy.deepcopy(thing).items() if key not in ("apiVersion", "kind")}


def _labels_match(thing: Object, selector: str) -> bool:
    labels = thing["metadata"].get("labels") or {}
    return all(labels.get(pair.partition("=")[0]) == pair.partition("=")[2] for pair in selector.split(",") if pair)


def _fields_match(thing: Object, selector: str) -> bool:
    for pair in filter(None, selector.split(",")):
        path, _, wanted = pair.partition("=")
        value: Any = thing
        for part in path.split("."):
            value = (value or {}).get(part)
        if value != wanted:
            return False
    return True


def _merge(thing: Object, changes: Object) -> None:
    """RFC 7386."""
    for key, value in changes.items():
        if value is None:
            thing.pop(key, None)
        elif isinstance(value, dict):
            _merge(thing.setdefault(key, {}), value)
        else:
            thing[key] = value
