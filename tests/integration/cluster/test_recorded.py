"""Objects that the API server of the tests serves are valid by the schemas of Kubernetes."""

import kubernetes_validate
import pytest

from tests.integration.cluster.conftest import pod_of, recorded
from tests.integration.cluster.kube_api import KubeApi, Object


@pytest.mark.parametrize("thing", recorded(), ids=lambda each: each["kind"])
def test_recorded_objects_are_valid(thing: Object) -> None:
    kubernetes_validate.validate(thing, kubernetes_validate.latest_version(), strict=True)


def test_pods_are_valid(api: KubeApi) -> None:
    workload = api.find("Deployment", "lyra-gateway")
    assert workload
    kubernetes_validate.validate(pod_of(workload, 0), kubernetes_validate.latest_version(), strict=True)
