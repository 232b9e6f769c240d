"""What the cluster itself has: its version, kinds of objects, GPUs, storage."""

from collections.abc import Iterator

from services.operations.cluster.api import CLAIMS, DAEMON_SETS, STORAGE_CLASSES
from services.operations.cluster.capacity import Node, Room, gpu_nodes, room_for
from services.operations.cluster.checks import Subject, some
from services.operations.cluster.findings import Finding, good, missing, warning
from services.operations.cluster.objects import annotations_of, is_gpu, name_of, pick, requests_of
from services.operations.cluster.versions import CHART_RANGE, in_range, parse_version

_DEVICE_PLUGIN = "nvidia-device-plugin"
_DEFAULT_CLASS = "storageclass.kubernetes.io/is-default-class"
_INSTALL_PLUGIN = (
    "helm repo add nvdp https://nvidia.github.io/k8s-device-plugin",
    "helm install nvdp nvdp/nvidia-device-plugin --namespace nvidia-device-plugin --create-namespace",
)
_INSTALL_METRICS_SERVER = (
    "helm repo add metrics-server https://kubernetes-sigs.github.io/metrics-server/",
    "helm install metrics-server metrics-server/metrics-server --namespace kube-system",
)
_INSTALL_KEDA = (
    "helm repo add kedacore https://kedacore.github.io/charts",
    "helm install keda kedacore/keda --namespace keda --create-namespace",
)
_INSTALL_PROMETHEUS = (
    "helm repo add prometheus-community https://prometheus-community.github.io/helm-charts",
    "helm install monitoring prometheus-community/kube-prometheus-stack --namespace monitoring --create-namespace",
)
_INSTALL_ADAPTER = (
    "helm repo add prometheus-community https://prometheus-community.github.io/helm-charts",
    "helm install adapter prometheus-community/prometheus-adapter --namespace monitoring",
)
# By API group: what brings it, and how.
_BROUGHT_BY = {
    "keda.sh": ("KEDA", (*_INSTALL_KEDA, "or scale without it: autoscaling.mode of each service to hpa or none")),
    "monitoring.coreos.com": (
        "the Prometheus operator",
        (*_INSTALL_PROMETHEUS, "or do without: serviceMonitor and prometheusRule below `monitoring` off"),
    ),
    "gateway.networking.k8s.io": (
        "Gateway API",
        (
            "install a gateway controller: https://gateway-api.sigs.k8s.io/implementations/",
            "or use ingress instead of gatewayApi",
        ),
    ),
}
# By type of the metric that a HorizontalPodAutoscaler reads: the API that has it.
_METRIC_APIS = {
    "Resource": ("metrics.k8s.io", "metrics-server", _INSTALL_METRICS_SERVER),
    "ContainerResource": ("metrics.k8s.io", "metrics-server", _INSTALL_METRICS_SERVER),
    "Pods": ("custom.metrics.k8s.io", "the Prometheus adapter", _INSTALL_ADAPTER),
    "Object": ("custom.metrics.k8s.io", "the Prometheus adapter", _INSTALL_ADAPTER),
    "External": ("external.metrics.k8s.io", "the Prometheus adapter or KEDA", _INSTALL_ADAPTER),
}


def version(subject: Subject) -> Iterator[Finding]:
    """The server's version against what the chart asks for."""
    told = str((subject.cluster.discover("/version") or {}).get("gitVersion", ""))
    wanted = subject.kube_versions or CHART_RANGE
    try:
        fits = in_range(parse_version(told), wanted)
    except ValueError:
        yield warning(
            "Kubernetes", told or "it tells no version", f"its version is not understood; the chart asks for {wanted}"
        )
        return
    if fits:
        yield good("Kubernetes", f"{told}, and the chart asks for {wanted}")
    else:
        yield missing(
            "Kubernetes", told, f"the chart asks for {wanted}", "upgrade the cluster's control plane and nodes"
        )


def kinds(subject: Subject) -> Iterator[Finding]:
    """Whether the server knows the kinds of objects that the release is made of, and the metrics it scales by."""
    there = []
    for api in sorted({api for api, _ in subject.requirements.apis}):
        wanted = {kind for of, kind in subject.requirements.apis if of == api}
        known = subject.cluster.discover(f"/{'apis' if '/' in api else 'api'}/{api}") or {}
        lacking = wanted - {str(each.get("kind")) for each in known.get("resources") or ()}
        if lacking:
            group = api.partition("/")[0]
            brings, how = _BROUGHT_BY.get(group, ("", (f"kubectl api-resources --api-group={group}",)))
            by = f", which come with {brings}" if brings else ""
            yield missing("kinds of objects", "", f"there is no {some(sorted(lacking))} ({api}){by}", *how)
        else:
            there.append(api)
    if there:
        yield good("kinds of objects", f"all of {some(there, 12)}")
    yield from _metrics(subject)


def _metrics(subject: Subject) -> Iterator[Finding]:
    """Autoscalers stand still where nobody serves the metrics that they read."""
    groups = subject.cluster.discover("/apis") or {}
    known = {str(each.get("name")) for each in groups.get("groups") or ()}
    for kind in sorted(subject.requirements.metric_types):
        api, brings, how = _METRIC_APIS.get(kind, ("", "", ()))
        if api and api not in known:
            yield missing(
                "metrics",
                "",
                f"nobody serves {api}, which autoscalers with metrics of type {kind} read; it comes with {brings}",
                *how,
            )
        elif api:
            yield good("metrics", f"{api} is served")


def gpus(subject: Subject) -> Iterator[Finding]:
    """Nodes with GPUs, what is free on them, and whether the release finds room."""
    wanted = [each for each in subject.requirements.workloads if any(is_gpu(name) for name in requests_of(each.pod))]
    nodes = gpu_nodes(subject.nodes, subject.all_pods)
    if not nodes:
        if wanted:
            yield from _no_gpus(subject, some(each.name for each in wanted))
        else:
            yield good("GPUs", "none, and the release asks for none")
        return
    there = "; ".join(_show(node) for node in nodes)
    # Pods of the release hold what they would be given again.
    rooms = room_for(wanted, gpu_nodes(subject.nodes, subject.all_pods, less=subject.own_pods))
    lacking = [room for room in rooms if room.fitting < room.wanted]
    for place, room in enumerate(lacking):
        yield missing("GPUs", "" if place else there, _lacks(room), *_mend(room))
    if lacking:
        return
    yield good("GPUs", there)
    for room in room_for(wanted, gpu_nodes(subject.nodes, subject.all_pods, less=subject.own_pods), most=True):
        if room.fitting < room.wanted:
            yield warning(
                "GPUs",
                f"room for {room.fitting} of the {room.wanted} pods that {room.workload} may grow to",
                f"beyond that, pods wait for {room.resource} ({room.why})",
                "let the cluster add nodes, or lower maxReplicas",
            )


def _no_gpus(subject: Subject, who: str) -> Iterator[Finding]:
    plugins = [each for each in subject.cluster.list(DAEMON_SETS, "") if _DEVICE_PLUGIN in name_of(each)]
    if not plugins:
        what = f"no node offers GPUs, and {who} ask for them; NVIDIA's device plugin is not there either"
        yield missing("GPUs", "", what, *_INSTALL_PLUGIN)
        return
    for plugin in plugins:
        name, namespace = name_of(plugin), str(plugin["metadata"]["namespace"])
        status = plugin.get("status") or {}
        on, ready = status.get("desiredNumberScheduled", 0), status.get("numberReady", 0)
        found = f"NVIDIA's device plugin {namespace}/{name}: ready on {ready} of {on} nodes"
        how = f"kubectl -n {namespace} logs daemonset/{name} --all-pods" if on else "kubectl get nodes --show-labels"
        yield missing("GPUs", found, f"no node offers GPUs, and {who} ask for them", how)


def _show(node: Node) -> str:
    counts = ", ".join(f"{node.free[each]} of {count} {each} free" for each, count in sorted(node.allocatable.items()))
    product = f" ({node.product})" if node.product else ""
    return f"{node.name}{product}: {counts}{'' if node.usable else ', not in use (not ready, or cordoned)'}"


def _lacks(room: Room) -> str:
    pods = "1 pod" if room.wanted == 1 else f"{room.wanted} pods"
    wants = f"{room.workload} wants {room.each} {room.resource} for each of {pods}"
    return f"{wants}, and {room.fitting} find room: {room.why}"


def _mend(room: Room) -> tuple[str, ...]:
    if "tolerations" in room.why:
        return ("set nodeSelector and tolerations of the service to those of the nodes: kubectl describe nodes",)
    if "not ready" in room.why:
        return ("kubectl get nodes", "kubectl uncordon NODE")
    return ("add a node with GPUs, or lower the service's replicas; `kubectl describe nodes` tells who holds them",)


def storage(subject: Subject) -> Iterator[Finding]:
    """Claims that the release names, and storage classes for those that it makes."""
    yield from _claims(subject)
    claims = subject.requirements.claims
    if not claims:
        yield good("storage class", "the release makes no volumes")
        return
    classes = {name_of(each): each for each in subject.cluster.list(STORAGE_CLASSES)}
    default = [name for name, each in classes.items() if annotations_of(each).get(_DEFAULT_CLASS) == "true"]
    without = [each.name for each in claims if each.storage_class is None]
    unknown_classes = {
        each.storage_class for each in claims if each.storage_class and each.storage_class not in classes
    }
    there = f"{some(classes) or 'no storage class'}; default: {some(default) or 'none'}"
    if without and not default:
        name = next(iter(classes), "NAME")
        patch = f'\'{{"metadata":{{"annotations":{{"{_DEFAULT_CLASS}":"true"}}}}}}\''
        yield missing(
            "storage class",
            there,
            f"{some(without)} name no class, and there is no default one",
            f"kubectl patch storageclass {name} -p {patch}" if classes else "install a storage provisioner",
            "or name a storageClass in the values",
        )
    for each in sorted(unknown_classes):
        yield missing("storage class", there, f"there is no storage class {each}", "kubectl get storageclass")
    if not unknown_classes and (default or not without):
        yield good("storage class", there)


def _claims(subject: Subject) -> Iterator[Finding]:
    for each in subject.requirements.named:
        if each.kind != "PersistentVolumeClaim":
            continue
        claim = subject.cluster.find(CLAIMS, each.name)
        if claim is None:
            what = f"there is no PersistentVolumeClaim {each.name}, which {some(each.by, 3)} mount"
            yield missing("volumes", "", what, "make it, or name another in the values (weights.volume, training)")
        elif pick(claim, "status", "phase") != "Bound":
            phase = pick(claim, "status", "phase") or "new"
            look = f"kubectl -n {subject.namespace} describe pvc {each.name}"
            yield warning("volumes", f"PersistentVolumeClaim {each.name} is {phase}", "it has no volume yet", look)
        else:
            yield good("volumes", f"PersistentVolumeClaim {each.name} is bound")
