"""Invariants that hold for every rendering of the chart."""

import re
from collections import Counter
from collections.abc import Callable, Iterator

import pytest

from tests.chart.chart import NAMESPACE, Object, Rendering, containers, environment, matches, quantity

Rule = Callable[[Rendering], Iterator[str]]
RULES: dict[str, Rule] = {}

# Values that name objects which exist before the chart is installed.
_EXISTING_FIELDS = ("existingSecret", "tlsSecret", "existingClaim", "dataClaim", "outClaim")
_CREATED_BY_CLUSTER = {"serviceaccount": {"default"}}


def rule(check: Rule) -> Rule:
    """Registers a function that yields violations; its name states the rule."""
    RULES[check.__name__] = check
    return check


@rule
def names_are_unique_and_namespaced(rendering: Rendering) -> Iterator[str]:
    count = Counter((each["kind"], each["metadata"]["name"]) for each in rendering.objects)
    yield from (f"{key} exists {number} times" for key, number in count.items() if number > 1)
    for each in rendering.objects:
        if each["metadata"].get("namespace") != NAMESPACE:
            yield f"{each['kind']} {each['metadata']['name']} is in another namespace"
        if len(each["metadata"]["name"]) > 63:
            yield f"{each['metadata']['name']} is too long"


@rule
def objects_have_the_recommended_labels(rendering: Rendering) -> Iterator[str]:
    wanted = {
        f"app.kubernetes.io/{name}" for name in ("name", "instance", "version", "component", "part-of", "managed-by")
    }
    for each in rendering.objects:
        if missing := wanted - each["metadata"].get("labels", {}).keys():
            yield f"{each['kind']} {each['metadata']['name']} lacks {sorted(missing)}"


@rule
def selectors_match_exactly_their_own_pods(rendering: Rendering) -> Iterator[str]:
    pods = [(name, pod["metadata"].get("labels", {})) for name, pod in rendering.pods()]
    for each in rendering.of("Deployment", "StatefulSet", "PodDisruptionBudget", "Service"):
        selector = each["spec"]["selector"]
        if each["kind"] == "Service":
            selector = {"matchLabels": selector}
        found = [name for name, labels in pods if matches(selector, labels)]
        if found != [each["metadata"]["name"]]:
            yield f"{each['kind']} {each['metadata']['name']} selects the pods of {found}"
    for each in rendering.of("Deployment", "StatefulSet"):
        if not matches(each["spec"]["selector"], each["spec"]["template"]["metadata"]["labels"]):
            yield f"{each['metadata']['name']} does not select its own pods"


@rule
def requests_do_not_exceed_limits(rendering: Rendering) -> Iterator[str]:
    for name, pod in rendering.pods():
        for container in containers(pod):
            resources = container.get("resources", {})
            requests, limits = resources.get("requests", {}), resources.get("limits", {})
            for what in ("cpu", "memory"):
                if what not in requests or what not in limits:
                    yield f"{name}/{container['name']} has no request or limit of {what}"
            for what, amount in requests.items():
                if what in limits and quantity(amount) > quantity(limits[what]):
                    yield f"{name}/{container['name']} requests {amount} of {what}, over {limits[what]}"
            extended = {what for what in {**requests, **limits} if "/" in what}
            if any(requests.get(what) != limits.get(what) for what in extended):
                yield f"{name}/{container['name']} requests other GPUs than its limit"


@rule
def autoscalers_are_consistent_and_unique(rendering: Rendering) -> Iterator[str]:
    deployments = {each["metadata"]["name"]: each for each in rendering.of("Deployment")}
    targets: list[str] = []
    for each in rendering.of("HorizontalPodAutoscaler", "ScaledObject"):
        spec, hpa = each["spec"], each["kind"] == "HorizontalPodAutoscaler"
        minimum, maximum = (
            (spec["minReplicas"], spec["maxReplicas"]) if hpa else (spec["minReplicaCount"], spec["maxReplicaCount"])
        )
        targets.append(spec["scaleTargetRef"]["name"])
        if not (int(hpa) <= minimum <= maximum):
            yield f"{each['metadata']['name']} scales from {minimum} to {maximum}"
        if "replicas" in deployments[targets[-1]]["spec"]:
            yield f"{targets[-1]} sets replicas although it is autoscaled"
        behavior = spec["behavior"] if hpa else spec["advanced"]["horizontalPodAutoscalerConfig"]["behavior"]
        if behavior["scaleDown"]["stabilizationWindowSeconds"] < 120:
            yield f"{targets[-1]} scales down immediately"
    if len(targets) != len(set(targets)):
        yield f"two autoscalers for one target: {targets}"
    for name, each in deployments.items():
        if name not in targets and "replicas" not in each["spec"]:
            yield f"{name} has neither replicas nor an autoscaler"


@rule
def disruption_budgets_allow_node_drains(rendering: Rendering) -> Iterator[str]:
    for each in rendering.of("PodDisruptionBudget"):
        spec = each["spec"]
        if ("minAvailable" in spec) == ("maxUnavailable" in spec) or spec.get("maxUnavailable") == 0:
            yield f"{each['metadata']['name']} never allows an eviction"


@rule
def ports_exist_in_their_containers(rendering: Rendering) -> Iterator[str]:
    for name, pod in rendering.pods():
        for container in pod["spec"]["containers"]:
            ports = {each["name"]: each["containerPort"] for each in container.get("ports", ())}
            for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
                for how in ("httpGet", "tcpSocket", "grpc"):
                    port = container.get(probe, {}).get(how, {}).get("port")
                    if port is not None and port not in ports and port not in ports.values():
                        yield f"{name}: {probe} asks port {port}"
            given = environment(container)
            said = {int(given[key]) for key in ("LYRA_PORT", "LYRA_METRICS_PORT") if key in given}
            if said and said != set(ports.values()):
                yield f"{name} listens on {said}, but declares {ports}"
    for service in rendering.of("Service"):
        pod = next(
            pod
            for _, pod in rendering.pods()
            if matches({"matchLabels": service["spec"]["selector"]}, pod["metadata"]["labels"])
        )
        shown = {port["name"] for container in pod["spec"]["containers"] for port in container["ports"]}
        for port in service["spec"]["ports"]:
            if port["targetPort"] not in shown:
                yield f"{service['metadata']['name']} targets the unknown port {port['targetPort']}"


@rule
def addresses_match_services_of_the_release(rendering: Rendering) -> Iterator[str]:
    services = {
        each["metadata"]["name"]: {port["port"] for port in each["spec"]["ports"]} for each in rendering.of("Service")
    }
    for name, pod in rendering.pods():
        for container in containers(pod):
            for key, value in environment(container).items():
                for host, port in re.findall(rf"(?:///|//|@|^)([a-z0-9-]+)(?:\.{NAMESPACE}\.svc)?:(\d+)", value):
                    if f".{NAMESPACE}.svc" in value and (host not in services or int(port) not in services[host]):
                        yield f"{name}: {key} is {value}, which is not a port of a Service"


@rule
def long_running_containers_have_probes(rendering: Rendering) -> Iterator[str]:
    for each in rendering.of("Deployment", "StatefulSet"):
        for container in each["spec"]["template"]["spec"]["containers"]:
            for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
                if probe not in container:
                    yield f"{each['metadata']['name']} has no {probe}"
            if any(port["name"] == "grpc" for port in container["ports"]):
                probe = container["readinessProbe"]
                # The kubelet cannot probe gRPC over TLS.
                encrypted = "LYRA_SERVICE_TLS_CERT_FILE" in environment(container)
                asked = (
                    probe.get("httpGet") == {"path": "/healthz", "port": "metrics"} if encrypted else "grpc" in probe
                )
                if not asked:
                    yield f"{each['metadata']['name']} is not probed over gRPC"


@rule
def images_are_pinned(rendering: Rendering) -> Iterator[str]:
    for name, pod in rendering.pods():
        for container in containers(pod):
            image = container["image"]
            last = image.rpartition("/")[2]
            if not re.fullmatch(r"[^:@]+(:[\w][\w.-]*|@sha256:[0-9a-f]{64})", last) or last.endswith(":latest"):
                yield f"{name}/{container['name']} runs {image}"


@rule
def pods_fit_the_restricted_profile(rendering: Rendering) -> Iterator[str]:
    """https://kubernetes.io/docs/concepts/security/pod-security-standards/#restricted, and a root that is read-only."""
    allowed = {
        "configMap",
        "csi",
        "downwardAPI",
        "emptyDir",
        "ephemeral",
        "persistentVolumeClaim",
        "projected",
        "secret",
    }
    for name, pod in rendering.pods():
        spec = pod["spec"]
        security = spec["securityContext"]
        if not security.get("runAsNonRoot") or security.get("runAsUser") in (0, None):
            yield f"{name} may run as root"
        if security.get("seccompProfile") != {"type": "RuntimeDefault"}:
            yield f"{name} has no seccomp profile"
        if any(spec.get(key) for key in ("hostNetwork", "hostPID", "hostIPC", "shareProcessNamespace")):
            yield f"{name} uses host namespaces"
        if spec.get("automountServiceAccountToken") is not False:
            yield f"{name} mounts a token of the API server"
        for volume in spec.get("volumes", ()):
            if not volume.keys() - {"name"} <= allowed:
                yield f"{name} mounts {volume}"
        for container in containers(pod):
            own = container["securityContext"]
            if own.get("allowPrivilegeEscalation") is not False or own.get("privileged"):
                yield f"{name}/{container['name']} may gain privileges"
            if own.get("capabilities") != {"drop": ["ALL"]}:
                yield f"{name}/{container['name']} keeps capabilities"
            if own.get("readOnlyRootFilesystem") is not True:
                yield f"{name}/{container['name']} can write its root"
            if any("hostPort" in port for port in container.get("ports", ())):
                yield f"{name}/{container['name']} uses a host port"


@rule
def volumes_and_mounts_match(rendering: Rendering) -> Iterator[str]:
    for name, pod in rendering.pods():
        claims = set()
        for each in rendering.of("StatefulSet"):
            if each["metadata"]["name"] == name:
                claims = {claim["metadata"]["name"] for claim in each["spec"]["volumeClaimTemplates"]}
        volumes = {volume["name"] for volume in pod["spec"].get("volumes", ())} | claims
        mounts = {mount["name"] for container in containers(pod) for mount in container.get("volumeMounts", ())}
        if volumes != mounts:
            yield f"{name}: volumes {sorted(volumes)}, mounts {sorted(mounts)}"
        for container in containers(pod):
            paths = [mount["mountPath"] for mount in container.get("volumeMounts", ())]
            if len(paths) != len(set(paths)):
                yield f"{name}/{container['name']} mounts twice in one place"


@rule
def referenced_objects_exist(rendering: Rendering) -> Iterator[str]:
    there: dict[str, set[str]] = {
        "secret": set(),
        "configmap": set(),
        "persistentvolumeclaim": set(),
        "serviceaccount": set(),
    }
    for each in rendering.objects:
        if (kind := each["kind"].lower()) in there:
            there[kind].add(each["metadata"]["name"])
    given = set(_existing(rendering))
    for name, pod in rendering.pods():
        for kind, wanted in _references(pod["spec"]):
            if wanted not in there[kind] | given | _CREATED_BY_CLUSTER.get(kind, set()):
                yield f"{name} refers to the missing {kind} {wanted}"
    for each in rendering.of("Ingress"):
        for entry in each["spec"].get("tls", ()):
            if entry["secretName"] not in there["secret"] | given:
                yield f"{each['metadata']['name']} refers to the missing secret {entry['secretName']}"


@rule
def referenced_secret_keys_exist(rendering: Rendering) -> Iterator[str]:
    data = {each["metadata"]["name"]: each["data"] for each in rendering.of("Secret")}
    for name, pod in rendering.pods():
        for container in containers(pod):
            for variable in container.get("env", ()):
                of = variable.get("valueFrom", {}).get("secretKeyRef")
                if of and of["name"] in data and of["key"] not in data[of["name"]]:
                    yield f"{name}: {variable['name']} reads {of['key']}, which {of['name']} has not"


@rule
def grace_periods_cover_the_longest_stream(rendering: Rendering) -> Iterator[str]:
    for each in rendering.of("Deployment"):
        spec = each["spec"]["template"]["spec"]
        container = spec["containers"][0]
        stream = float(environment(container)["LYRA_GRACE_SECONDS"])
        before = container.get("lifecycle", {}).get("preStop", {}).get("sleep", {}).get("seconds", 0)
        if spec["terminationGracePeriodSeconds"] <= stream + before:
            yield f"{each['metadata']['name']} is killed after {spec['terminationGracePeriodSeconds']} s"


@rule
def model_services_are_headless(rendering: Rendering) -> Iterator[str]:
    models = {"speech-encoder", "vision-encoder", "language-model", "speech-synthesizer"}
    for each in rendering.of("Service"):
        component = each["metadata"]["labels"]["app.kubernetes.io/component"]
        if component in models and each["spec"].get("clusterIP") != "None":
            yield f"{each['metadata']['name']} is not headless"
    for each in rendering.of("Deployment"):
        for key, value in environment(each["spec"]["template"]["spec"]["containers"][0]).items():
            if key.endswith("_ADDRESS") and not value.startswith("dns:///"):
                yield f"{each['metadata']['name']}: {key} is {value}"


@rule
def only_callers_and_services_have_tokens_and_certificates(rendering: Rendering) -> Iterator[str]:
    callers = {"gateway", "worker-clips", "worker-answers"}
    services = {"speech-encoder", "vision-encoder", "language-model", "speech-synthesizer"}
    adapted = {"speech-encoder", "language-model"}
    auth = rendering.values.get("serviceAuth", {})
    wanted = {"SERVICE_TOKEN_FILE": callers | services}
    wanted["OPERATOR_TOKEN_FILE"] = adapted if auth.get("operatorToken", {}).get("existingSecret") else set()
    certified = callers | services if auth.get("tls", {}).get("existingSecret") else set()
    wanted |= dict.fromkeys((f"SERVICE_TLS_{file}_FILE" for file in ("CERT", "KEY", "CA")), certified)
    for name, pod in rendering.pods():
        container = pod["spec"]["containers"][0]
        component = pod["metadata"]["labels"]["app.kubernetes.io/component"]
        paths = {each["name"]: each["mountPath"] for each in container.get("volumeMounts", ())}
        files = {
            f"{paths[volume['name']]}/{item['path']}"
            for volume in pod["spec"].get("volumes", ())
            for item in volume.get("secret", {}).get("items", ())
        }
        for variable, components in wanted.items():
            given = environment(container).get(f"LYRA_{variable}")
            if (given is not None) != (component in components):
                yield f"{name}: LYRA_{variable} is {given}"
            if given is not None and given not in files:
                yield f"{name}: LYRA_{variable} is {given}, which no Secret provides"


@rule
def environment_variables_are_unique(rendering: Rendering) -> Iterator[str]:
    for name, pod in rendering.pods():
        for container in containers(pod):
            count = Counter(each["name"] for each in container.get("env", ()))
            yield from (f"{name}: {key} is set {number} times" for key, number in count.items() if number > 1)


@rule
def environment_variables_follow_those_they_reference(rendering: Rendering) -> Iterator[str]:
    for name, pod in rendering.pods():
        for container in containers(pod):
            before: set[str] = set()
            for each in container.get("env", ()):
                if missing := set(re.findall(r"\$\((\w+)\)", each.get("value", ""))) - before:
                    yield f"{name}: {each['name']} uses {missing}"
                before.add(each["name"])
            for text in (*container.get("command", ()), *container.get("args", ())):
                if missing := set(re.findall(r"\$\((\w+)\)", text)) - before:
                    yield f"{name} runs {text!r} without {missing}"


def _references(spec: Object) -> Iterator[tuple[str, str]]:
    """Kind and name of every object that a pod refers to."""
    yield "serviceaccount", spec["serviceAccountName"]
    for volume in spec.get("volumes", ()):
        if "secret" in volume:
            yield "secret", volume["secret"]["secretName"]
        if "configMap" in volume:
            yield "configmap", volume["configMap"]["name"]
        if "persistentVolumeClaim" in volume:
            yield "persistentvolumeclaim", volume["persistentVolumeClaim"]["claimName"]
    for secret in spec.get("imagePullSecrets", ()):
        yield "secret", secret["name"]
    for container in (*spec.get("initContainers", ()), *spec["containers"]):
        for each in container.get("env", ()):
            if "secretKeyRef" in (source := each.get("valueFrom", {})):
                yield "secret", source["secretKeyRef"]["name"]


def _existing(rendering: Rendering) -> Iterator[str]:
    """Names in the values of objects that exist beforehand."""

    def walk(value: object) -> Iterator[str]:
        if isinstance(value, dict):
            for key, inner in value.items():
                if key in _EXISTING_FIELDS:
                    yield inner
                elif key == "pullSecrets":
                    yield from inner
                else:
                    yield from walk(inner)

    return walk(rendering.values)


@pytest.mark.parametrize("name", sorted(RULES))
def test_every_rendering_follows(renderings: tuple[Rendering, ...], name: str) -> None:
    broken = [f"{rendering.name}: {problem}" for rendering in renderings for problem in RULES[name](rendering)]

    assert not broken
