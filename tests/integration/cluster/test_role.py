"""The roles in docs/deploy/cluster.md are sufficient for the commands and grant nothing unused."""

import re
from collections.abc import Iterator

import yaml

from tests.integration.cluster.conftest import Lyra, Measure, pod_of
from tests.integration.cluster.kube_api import KubeApi, Object
from tests.paths import ROOT

# Used only if an image is missing, if the release uses ConfigMaps or creates volumes, or if no node has GPUs.
_CONDITIONAL = ("events", "configmaps", "daemonsets", "storageclasses")
PAGE = ROOT / "docs" / "deploy" / "cluster.md"


def rules(*names: str) -> list[Object]:
    """Rules of the roles of these names on the page."""
    blocks = re.findall(r"```yaml\n(.*?)```", PAGE.read_text(), re.DOTALL)
    roles = {
        role["metadata"]["name"]: role for block in blocks for role in yaml.safe_load_all(block) if "rules" in role
    }
    return [rule for name in names for rule in roles[name]["rules"]]


def rights(some: list[Object]) -> Iterator[tuple[str, str, str]]:
    for rule in some:
        for group in rule["apiGroups"]:
            for resource in rule["resources"]:
                for verb in rule["verbs"]:
                    yield group, resource, verb


def run_read_only(lyra: Lyra) -> list[int]:
    commands = (["doctor"], ["status"], ["logs", "gateway"])
    return [lyra(*command).exit_code for command in commands]


def test_read_only_roles_are_sufficient(api: KubeApi, lyra: Lyra) -> None:
    api.rules = rules("lyra-look", "lyra-look-at-cluster")
    assert run_read_only(lyra) == [0, 0, 0]
    assert "not checked" not in lyra("doctor", "--json").stdout
    assert lyra("scale", "gateway", 5, "--anyway", "--yes").exit_code == 1


def test_role_for_changes_is_sufficient_to_scale_and_drain(api: KubeApi, lyra: Lyra, measure: Measure) -> None:
    api.rules = rules("lyra-look", "lyra-steer")
    workload = api.find("Deployment", "lyra-gateway")
    assert workload
    api.add(pod_of(workload, 1))
    measure("lyra-gateway-0").running.labels("POST /v1/chat/completions").set(1)
    assert lyra("scale", "gateway", 5, "--anyway", "--yes").exit_code == 0
    assert "1 call is still running" in lyra("drain", "lyra-gateway-0", "--timeout", 0, "--yes").stderr
    assert lyra("drain", "lyra-worker-clips-0", "--yes").exit_code == 0


def test_every_right_of_the_read_only_roles_is_used(api: KubeApi, lyra: Lyra) -> None:
    api.add({"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "q"}, "spec": {"hard": {"pods": "99"}}})
    run_read_only(lyra)
    given = {each for each in rights(rules("lyra-look", "lyra-look-at-cluster")) if each[1] not in _CONDITIONAL}
    assert given <= api.rights
