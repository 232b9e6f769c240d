"""Checks of the cluster: Kubernetes version, API resources, metrics, GPUs, storage."""

from collections.abc import Iterator

from services.operations.cluster.api import CLAIMS, DAEMON_SETS, STORAGE_CLASSES
from services.operations.cluster.capacity import GpuNode, Placement, gpu_nodes, place_gpu_pods
from services.operations.cluster.checks import CheckContext, shortened
from services.operations.cluster.findings import Finding, good, missing, warning
from services.operations.cluster.objects import annotations_of, is_gpu_resource, name_of, nested, pod_requests
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
# By API group: what provides it, and how to install that.
_PROVIDED_BY = {
    "keda.sh": ("KEDA", (*_INSTALL_KEDA, "or set autoscaling.mode of each service to hpa or none")),
    "monitoring.coreos.com": (
        "the Prometheus operator",
        (*_INSTALL_PROMETHEUS, "or disable monitoring.serviceMonitor and monitoring.prometheusRule"),
    ),
    "gateway.networking.k8s.io": (
        "Gateway API",
        (
            "install a gateway controller: https://gateway-api.sigs.k8s.io/implementations/",
            "or use ingress instead of gatewayApi",
        ),
    ),
}
# By metric type of a HorizontalPodAutoscaler: the API that serves it, what provides that, how to install it.
_METRIC_APIS = {
    "Resource": ("metrics.k8s.io", "metrics-server", _INSTALL_METRICS_SERVER),
    "ContainerResource": ("metrics.k8s.io", "metrics-server", _INSTALL_METRICS_SERVER),
    "Pods": ("custom.metrics.k8s.io", "the Prometheus adapter", _INSTALL_ADAPTER),
    "Object": ("custom.metrics.k8s.io", "the Prometheus adapter", _INSTALL_ADAPTER),
    "External": ("external.metrics.k8s.io", "the Prometheus adapter or KEDA", _INSTALL_ADAPTER),
}


def version(context: CheckContext) -> Iterator[Finding]:
    """The server's version is supported by the chart."""
    found = str((context.cluster.discover("/version") or {}).get("gitVersion", ""))
    required = context.kube_version_range or CHART_RANGE
    try:
        fits = in_range(parse_version(found), required)
    except ValueError:
        yield warning(
            "Kubernetes", found or "no version", f"the version is not understood; the chart requires {required}"
        )
        return
    if fits:
        yield good("Kubernetes", f"{found}; the chart requires {required}")
    else:
        yield missing(
            "Kubernetes", found, f"the chart requires {required}", "upgrade the cluster's control plane and nodes"
        )


def kinds(context: CheckContext) -> Iterator[Finding]:
    """The server supports the kinds of objects in the release and serves the metrics that it scales on."""
    supported = []
    for api in sorted({api for api, _ in context.requirements.apis}):
        required = {kind for version, kind in context.requirements.apis if version == api}
        known = context.cluster.discover(f"/{'apis' if '/' in api else 'api'}/{api}") or {}
        lacking = required - {str(each.get("kind")) for each in known.get("resources") or ()}
        if lacking:
            group = api.partition("/")[0]
            provider, remedies = _PROVIDED_BY.get(group, ("", (f"kubectl api-resources --api-group={group}",)))
            by = f", provided by {provider}" if provider else ""
            yield missing(
                "kinds of objects", "", f"the cluster has no {shortened(sorted(lacking))} ({api}){by}", *remedies
            )
        else:
            supported.append(api)
    if supported:
        yield good("kinds of objects", f"all of {shortened(supported, 12)}")
    yield from _metrics(context)


def _metrics(context: CheckContext) -> Iterator[Finding]:
    """The APIs that serve the metrics of autoscalers are available."""
    groups = context.cluster.discover("/apis") or {}
    known = {str(each.get("name")) for each in groups.get("groups") or ()}
    for kind in sorted(context.requirements.metric_types):
        api, provider, remedies = _METRIC_APIS.get(kind, ("", "", ()))
        if api and api not in known:
            yield missing(
                "metrics",
                "",
                f"the API {api}, which autoscalers need for {kind} metrics, is not available; install {provider}",
                *remedies,
            )
        elif api:
            yield good("metrics", f"{api} is served")


def gpus(context: CheckContext) -> Iterator[Finding]:
    """The release's pods with GPUs fit on the nodes."""
    workloads = [
        each for each in context.requirements.workloads if any(is_gpu_resource(name) for name in pod_requests(each.pod))
    ]
    nodes = gpu_nodes(context.nodes, context.all_pods)
    if not nodes:
        if workloads:
            yield from _no_gpus(context, shortened(each.name for each in workloads))
        else:
            yield good("GPUs", "none, and the release needs none")
        return
    summary = "; ".join(_node_summary(node) for node in nodes)
    # GPUs of the release's own pods count as free.
    available = gpu_nodes(context.nodes, context.all_pods, excluding=context.release_pods)
    lacking = [each for each in place_gpu_pods(workloads, available) if each.placed < each.replicas]
    for index, placement in enumerate(lacking):
        yield missing("GPUs", "" if index else summary, _missing_text(placement), *_remedies(placement))
    if lacking:
        return
    yield good("GPUs", summary)
    for placement in place_gpu_pods(workloads, available, at_max_replicas=True):
        if placement.placed < placement.replicas:
            yield warning(
                "GPUs",
                f"{placement.placed} of at most {placement.replicas} pods of {placement.workload} fit",
                f"the others would wait for {placement.resource} ({placement.reason})",
                "enable a cluster autoscaler, or lower maxReplicas",
            )


def _no_gpus(context: CheckContext, workloads: str) -> Iterator[Finding]:
    plugins = [each for each in context.cluster.list(DAEMON_SETS, "") if _DEVICE_PLUGIN in name_of(each)]
    if not plugins:
        what = f"no node has GPUs, which {workloads} need; NVIDIA's device plugin is not installed either"
        yield missing("GPUs", "", what, *_INSTALL_PLUGIN)
        return
    for plugin in plugins:
        name, namespace = name_of(plugin), str(plugin["metadata"]["namespace"])
        status = plugin.get("status") or {}
        desired, ready = status.get("desiredNumberScheduled", 0), status.get("numberReady", 0)
        found = f"NVIDIA's device plugin {namespace}/{name}: ready on {ready} of {desired} nodes"
        remedy = (
            f"kubectl -n {namespace} logs daemonset/{name} --all-pods" if desired else "kubectl get nodes --show-labels"
        )
        yield missing("GPUs", found, f"no node has GPUs, which {workloads} need", remedy)


def _node_summary(node: GpuNode) -> str:
    counts = ", ".join(f"{node.free[each]} of {count} {each} free" for each, count in sorted(node.allocatable.items()))
    product = f" ({node.product})" if node.product else ""
    return f"{node.name}{product}: {counts}{'' if node.schedulable else ', not schedulable (not ready or cordoned)'}"


def _missing_text(placement: Placement) -> str:
    pods = "1 pod" if placement.replicas == 1 else f"{placement.replicas} pods"
    needs = f"{placement.workload} needs {placement.per_pod} {placement.resource} for each of {pods}"
    return f"{needs}, of which {placement.placed} fit: {placement.reason}"


def _remedies(placement: Placement) -> tuple[str, ...]:
    if "tolerations" in placement.reason:
        return ("match nodeSelector and tolerations of the service to the nodes: kubectl describe nodes",)
    if "not ready" in placement.reason:
        return ("kubectl get nodes", "kubectl uncordon NODE")
    return (
        "add a node with GPUs, or lower the service's replicas; `kubectl describe nodes` shows which pods use them",
    )


def storage(context: CheckContext) -> Iterator[Finding]:
    """PersistentVolumeClaims that the release refers to exist, and so do storage classes for those that it creates."""
    yield from _claims(context)
    claims = context.requirements.claims
    if not claims:
        yield good("storage class", "the release creates no volumes")
        return
    classes = {name_of(each): each for each in context.cluster.list(STORAGE_CLASSES)}
    default = [name for name, each in classes.items() if annotations_of(each).get(_DEFAULT_CLASS) == "true"]
    classless = [each.name for each in claims if each.storage_class is None]
    unknown_classes = {
        each.storage_class for each in claims if each.storage_class and each.storage_class not in classes
    }
    found = f"{shortened(classes) or 'no storage class'}; default: {shortened(default) or 'none'}"
    if classless and not default:
        name = next(iter(classes), "NAME")
        patch = f'\'{{"metadata":{{"annotations":{{"{_DEFAULT_CLASS}":"true"}}}}}}\''
        yield missing(
            "storage class",
            found,
            f"{shortened(classless)} have no storage class, and there is no default one",
            f"kubectl patch storageclass {name} -p {patch}" if classes else "install a storage provisioner",
            "or set storageClass in the values",
        )
    for each in sorted(unknown_classes):
        yield missing("storage class", found, f"storage class {each} does not exist", "kubectl get storageclass")
    if not unknown_classes and (default or not classless):
        yield good("storage class", found)


def _claims(context: CheckContext) -> Iterator[Finding]:
    for each in context.requirements.references:
        if each.kind != "PersistentVolumeClaim":
            continue
        claim = context.cluster.find(CLAIMS, each.name)
        if claim is None:
            what = f"PersistentVolumeClaim {each.name}, mounted by {shortened(each.referrers, 3)}, does not exist"
            yield missing("volumes", "", what, "create it, or set another in the values (weights.volume, training)")
        elif nested(claim, "status", "phase") != "Bound":
            phase = nested(claim, "status", "phase") or "new"
            describe = f"kubectl -n {context.namespace} describe pvc {each.name}"
            yield warning(
                "volumes", f"PersistentVolumeClaim {each.name} is {phase}", "it is not bound to a volume yet", describe
            )
        else:
            yield good("volumes", f"PersistentVolumeClaim {each.name} is bound")
