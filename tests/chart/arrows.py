"""What network policies let through, as arrows (from, to, port), computed as Kubernetes does.

A connection is let through where the egress rules of its sender and the ingress rules of its receiver allow it; a pod
that no policy chooses is open (https://kubernetes.io/docs/concepts/services-networking/network-policies/).
"""

from typing import Any

from tests.chart.chart import Object, Rendering, matches

Arrow = tuple[str, str, int]
Labels = dict[str, str]

# Who is not of the release, by what its peer in the chart's values says.
OUTSIDE = {
    "prometheus": "monitoring",
    "keda": "keda",
    "dns": "kube-system",
    "ingress": "ingress",
    "stranger": "elsewhere",
}
INTERNET, PRIVATE = "internet", "private network"
_PORTS = (53, 80, 443, 5432, 6379, 6380, 8000, 9000, 9151, 9152, 9153, 9154, 9155, 50051, 50052, 50053, 50054)


def arrows(rendering: Rendering) -> set[Arrow]:
    """Every connection that can be made: by and to pods of the release, those outside and networks."""
    pods = _pods(rendering)
    policies = [each["spec"] for each in rendering.of("NetworkPolicy")]
    ends = [*pods, *OUTSIDE, INTERNET, PRIVATE]
    found = set()
    for sender in ends:
        for receiver in ends:
            if sender == receiver or (sender not in pods and receiver not in pods):
                continue
            for port in _PORTS:
                goes = sender not in pods or _allowed(policies, "egress", pods[sender], receiver, pods, port)
                comes = receiver not in pods or _allowed(policies, "ingress", pods[receiver], sender, pods, port)
                if goes and comes:
                    found.add((sender, receiver, port))
    return found


def half_arrows(rendering: Rendering, direction: str) -> set[Arrow]:
    """Connections within the release that the rules of one side allow: `egress` the sender, `ingress` the receiver."""
    pods = _pods(rendering)
    policies = [each["spec"] for each in rendering.of("NetworkPolicy")]
    found = set()
    for sender in pods:
        for receiver in pods:
            own, other = (sender, receiver) if direction == "egress" else (receiver, sender)
            if sender != receiver:
                open_ports = (port for port in _PORTS if _allowed(policies, direction, pods[own], other, pods, port))
                found |= {(sender, receiver, port) for port in open_ports}
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
    """Whether a peer of a policy means this end."""
    if "ipBlock" in peer:
        block = peer["ipBlock"]
        everywhere = block["cidr"] == "0.0.0.0/0"
        return (other == INTERNET and everywhere) or (other == PRIVATE and not (everywhere and block.get("except")))
    if "namespaceSelector" in peer:
        wanted = peer["namespaceSelector"].get("matchLabels", {})
        return other in OUTSIDE and OUTSIDE[other] in wanted.values()
    return other in pods and matches(peer["podSelector"], pods[other])
