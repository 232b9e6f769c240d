"""Connections that network policies allow, as (source, destination, port), evaluated as Kubernetes does.

A connection is allowed if the egress rules of its source and the ingress rules of its destination allow it; a pod that
no policy selects is open (https://kubernetes.io/docs/concepts/services-networking/network-policies/).
"""

from typing import Any

from tests.chart.chart import Object, Rendering, matches

Connection = tuple[str, str, int]
Labels = dict[str, str]

# Clients and servers outside the release, by a label value that selects them in the chart's values.
OUTSIDE = {
    "prometheus": "monitoring",
    "keda": "keda",
    "dns": "kube-system",
    "ingress": "ingress",
    "stranger": "elsewhere",
}
INTERNET, PRIVATE = "internet", "private network"
_PORTS = (53, 80, 443, 5432, 6379, 6380, 8000, 9000, 9151, 9152, 9153, 9154, 9155, 50051, 50052, 50053, 50054)


def connections(rendering: Rendering) -> set[Connection]:
    """All allowed connections from and to pods of the release."""
    pods = _pods(rendering)
    policies = [each["spec"] for each in rendering.of("NetworkPolicy")]
    ends = [*pods, *OUTSIDE, INTERNET, PRIVATE]
    found = set()
    for source in ends:
        for destination in ends:
            if source == destination or (source not in pods and destination not in pods):
                continue
            for port in _PORTS:
                leaves = source not in pods or _allowed(policies, "egress", pods[source], destination, pods, port)
                enters = destination not in pods or _allowed(policies, "ingress", pods[destination], source, pods, port)
                if leaves and enters:
                    found.add((source, destination, port))
    return found


def allowed_by(direction: str, rendering: Rendering) -> set[Connection]:
    """Connections within the release that one side's rules allow: `egress` of the source or `ingress` of the other."""
    pods = _pods(rendering)
    policies = [each["spec"] for each in rendering.of("NetworkPolicy")]
    found = set()
    for source in pods:
        for destination in pods:
            own, other = (source, destination) if direction == "egress" else (destination, source)
            if source != destination:
                open_ports = (port for port in _PORTS if _allowed(policies, direction, pods[own], other, pods, port))
                found |= {(source, destination, port) for port in open_ports}
    return found


def _pods(rendering: Rendering) -> dict[str, Labels]:
    labels = (pod["metadata"]["labels"] for _, pod in rendering.pods())
    return {each["app.kubernetes.io/component"]: each for each in labels}


def _allowed(
    policies: list[Object], direction: str, own: Labels, other: str, pods: dict[str, Labels], port: int
) -> bool:
    chosen = [
        policy
        for policy in policies
        if direction.title() in policy["policyTypes"] and matches(policy["podSelector"], own)
    ]
    if not chosen:
        return True
    peers = "to" if direction == "egress" else "from"
    return any(_opens(rule, peers, other, pods, port) for policy in chosen for rule in policy.get(direction) or ())


def _opens(rule: dict[str, Any], peers: str, other: str, pods: dict[str, Labels], port: int) -> bool:
    ports = rule.get("ports")
    if ports is not None and port not in {each["port"] for each in ports}:
        return False
    return peers not in rule or any(_is(peer, other, pods) for peer in rule[peers] or ())


def _is(peer: dict[str, Any], other: str, pods: dict[str, Labels]) -> bool:
    """Whether a peer of a policy selects this end."""
    if "ipBlock" in peer:
        block = peer["ipBlock"]
        everywhere = block["cidr"] == "0.0.0.0/0"
        return (other == INTERNET and everywhere) or (other == PRIVATE and not (everywhere and block.get("except")))
    if "namespaceSelector" in peer:
        wanted = peer["namespaceSelector"].get("matchLabels", {})
        return other in OUTSIDE and OUTSIDE[other] in wanted.values()
    return other in pods and matches(peer["podSelector"], pods[other])
