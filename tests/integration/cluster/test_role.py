"""The roles that docs/deploy/cluster.md gives are enough for the commands, and no more than they use."""

import re
from collections.abc import Iterator

import yaml

from tests.integration.cluster.conftest import Lyra, Measure, pod_of
from tests.integration.cluster.kube_api import KubeApi, Object
from tests.paths import ROOT

# Read where an image is missing, where the release names ConfigMaps or makes volumes, where no node has GPUs.
_AT_NEED = ("events", "configmaps", "daemonsets", "storageclasses")
PAGE = ROOT / "docs" / "deploy" / "cluster.md"


def rules(*names: str) -> list[Object]:
    """Rules of roles on the page, by their names."""
    blocks = re.findall(r"```yaml\n(.*?)```", PAGE.read_text(), re.DOTALL)
    roles = {
        role["metadata"]["name"]: role for block in blocks for role in yaml.safe_load_all(block) if "rules" in role
    }
    return [rule for name in names for rule in roles[name]["rules"]]


def each_right(some: list[Object]) -> Iterator[tuple[str, str, str]]:
    for rule in some:
        for group in rule["apiGroups"]:
            for resource in rule["resources"]:
                for verb in rule["verbs"]:
                    yield group, resource, verb


def look(lyra: Lyra) -> list[int]:
    commands = (["doctor"], ["status"], ["logs", "gateway"])
    return [lyra(*command).exit_code for command in commands]


def test_the_role_for_looking_is_enough_to_look(api: KubeApi, lyra: Lyra) -> None:
    api.rules = rules("lyra-look", "lyra-look-at-cluster")
    assert look(lyra) == [0, 0, 0]
    assert "not checked" not in lyra("doctor", "--json").stdout
    assert lyra("scale", "gateway", 5, "--anyway", "--yes").exit_code == 1


def test_the_role_for_steering_is_enough_to_scale_and_drain(api: KubeApi, lyra: Lyra, measure: Measure) -> None:
    api.rules = rules("lyra-look", "lyra-steer")
    workload = api.find("Deployment", "lyra-gateway")
    assert workload
    api.add(pod_of(workload, 1))
    measure("lyra-gateway-0").running.labels("POST /v1/chat/completions").set(1)
    assert lyra("scale", "gateway", 5, "--anyway", "--yes").exit_code == 0
    assert "1 call runs" in lyra("drain", "lyra-gateway-0", "--timeout", 0, "--yes").stderr
    assert lyra("drain", "lyra-worker-clips-0", "--yes").exit_code == 0


def test_every_right_of_the_roles_for_looking_is_used(api: KubeApi, lyra: Lyra) -> None:
    api.add({"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "q"}, "spec": {"hard": {"pods": "99"}}})
    look(lyra)
    given = {each for each in each_right(rules("lyra-look", "lyra-look-at-cluster")) if each[1] not in _AT_NEED}
    assert given <= api.rights
