"""`lyra cluster scale` and `drain`: nothing changes without confirmation, and no call is dropped."""

import pytest

from services.operations.cluster.api import Cluster
from services.operations.cluster.cluster_errors import Rejected
from services.operations.cluster.draining import SERVING_LABEL, StillBusy, drain, plan_drain
from services.operations.cluster.release import find_release
from services.operations.cluster.scaling import plan_scale
from tests.integration.cluster.conftest import Lyra, Measure, pod_of
from tests.integration.cluster.kube_api import KubeApi, Object

POD = "lyra-language-model-0"
GENERATE = "/lyra.v1.LanguageModel/Generate"


def replicas(api: KubeApi, name: str) -> int:
    found = api.find("Deployment", name)
    assert found
    return int(found["spec"]["replicas"])


def changes(api: KubeApi) -> list[str]:
    return [each for each in api.requests if not each.startswith("GET")]


def with_a_second(api: KubeApi, name: str = "lyra-language-model") -> None:
    workload = api.find("Deployment", name)
    assert workload
    api.add(pod_of(workload, 1))


def without_autoscaler(api: KubeApi, name: str) -> None:
    api.remove("ScaledObject", name)
    api.remove("HorizontalPodAutoscaler", f"keda-hpa-{name}")


def test_scaling_asks_for_confirmation(api: KubeApi, lyra: Lyra) -> None:
    without_autoscaler(api, "lyra-worker-clips")
    result = lyra("scale", "worker-clips", 4, input="n\n")
    assert result.exit_code == 1
    assert "Scale lyra-worker-clips from 1 to 4?" in result.stderr
    assert changes(api) == []
    assert lyra("scale", "worker-clips", 4).exit_code == 1, "nobody to confirm"
    assert lyra("scale", "worker-clips", 4, input="y\n").exit_code == 0
    assert replicas(api, "lyra-worker-clips") == 4
    assert changes(api) == ["PATCH /apis/apps/v1/namespaces/lyra/deployments/lyra-worker-clips/scale"]


def test_scaling_an_autoscaled_component_shows_how_to_make_it_permanent(api: KubeApi, lyra: Lyra) -> None:
    result = lyra("scale", "language-model", 20, "--yes")
    assert result.exit_code == 1
    assert "keeps lyra-language-model between 2 and 16 pods and would revert this" in result.stderr
    assert "languageModel.autoscaling.minReplicas=20 --set languageModel.autoscaling.maxReplicas=20" in result.stderr
    assert "paused-replicas=20" in result.stderr
    assert changes(api) == []
    assert lyra("scale", "language-model", 20, "--yes", "--anyway").exit_code == 0
    assert replicas(api, "lyra-language-model") == 20


def test_paused_autoscaler_does_not_prevent_scaling(api: KubeApi, lyra: Lyra) -> None:
    scaled = api.find("ScaledObject", "lyra-language-model")
    assert scaled
    scaled["metadata"]["annotations"] = {"autoscaling.keda.sh/paused-replicas": "2"}
    api.add(scaled)
    assert lyra("scale", "language-model", 3, "--yes").exit_code == 0


def test_clock_cannot_have_two_pods(api: KubeApi, cluster: Cluster) -> None:
    with pytest.raises(Rejected, match="at most one pod"):
        plan_scale(cluster, find_release(cluster), "beat", 2)


def test_scaling_down_to_the_disruption_budget_warns(api: KubeApi, cluster: Cluster) -> None:
    plan = plan_scale(cluster, find_release(cluster), "gateway", 2)
    assert "PodDisruptionBudget lyra-gateway requires 2" in plan.warnings[0]


def test_scaling_without_the_right_fails(api: KubeApi, lyra: Lyra) -> None:
    api.denied = {("patch", "deployments/scale")}
    result = lyra("scale", "gateway", 5, "--yes", "--anyway")
    assert result.exit_code == 1
    assert "not allowed to patch deployments.apps/scale in namespace lyra" in result.stderr


def test_draining_leaves_the_service_then_waits_then_deletes(api: KubeApi, cluster: Cluster, measure: Measure) -> None:
    with_a_second(api)
    running = measure(POD).running.labels(GENERATE)
    running.set(2)
    events: list[str] = []

    def changed(verb: str, pod: Object) -> None:
        events.append(f"{verb} {pod['metadata']['labels'][SERVING_LABEL]}")

    def polled(calls: int) -> None:
        events.append(str(calls))
        running.set(max(0, calls - 1))

    api.on_change = changed
    plan = plan_drain(cluster, find_release(cluster), POD)
    assert (plan.services, plan.running_calls, plan.other_ready_pods) == (("lyra-language-model",), 2, 1)
    drain(cluster, plan, timeout_seconds=60, on_poll=polled, poll_seconds=0.01)
    assert events == ["PATCH draining", "2", "1", "0", "0", "0", "DELETE draining"]
    assert api.find("Pod", POD) is None


def test_draining_waits_for_late_calls(api: KubeApi, cluster: Cluster, measure: Measure) -> None:
    with_a_second(api)
    running = measure(POD).running.labels(GENERATE)
    late = iter([0, 1, 0, 0, 0])
    seen: list[int] = []

    def polled(calls: int) -> None:
        seen.append(calls)
        running.set(next(late, 0))

    running.set(0)
    drain(cluster, plan_drain(cluster, find_release(cluster), POD), 60, polled, 0.01)
    assert seen == [0, 0, 1, 0, 0, 0]


def test_pod_whose_calls_do_not_finish_is_not_deleted(api: KubeApi, lyra: Lyra, measure: Measure) -> None:
    with_a_second(api)
    measure(POD).running.labels(GENERATE).set(1)
    result = lyra("drain", POD, "--timeout", 0, "--yes")
    assert result.exit_code == 1
    assert "1 call is still running" in result.stderr
    assert "--undo" in result.stderr
    pod = api.find("Pod", POD)
    assert pod
    assert pod["metadata"]["labels"][SERVING_LABEL] == "draining"
    assert lyra("drain", POD, "--undo", "--yes").exit_code == 0
    pod = api.find("Pod", POD)
    assert pod
    assert pod["metadata"]["labels"][SERVING_LABEL] == "true"


def test_interrupted_draining_resumes(api: KubeApi, cluster: Cluster, measure: Measure) -> None:
    with_a_second(api)
    running = measure(POD).running.labels(GENERATE)
    running.set(1)
    release = find_release(cluster)
    with pytest.raises(StillBusy):
        drain(cluster, plan_drain(cluster, release, POD), 0)
    running.set(0)
    drain(cluster, plan_drain(cluster, release, POD), 60, poll_seconds=0.01)
    assert api.find("Pod", POD) is None


def test_only_ready_pod_is_not_drained(api: KubeApi, lyra: Lyra, measure: Measure) -> None:
    measure(POD).running.labels(GENERATE).set(0)
    result = lyra("drain", POD, "--yes")
    assert result.exit_code == 1
    assert "no other pod of language-model is ready" in result.stderr
    assert "lyra cluster scale language-model 2" in result.stderr
    assert changes(api) == []


def test_pod_with_unreadable_metrics_is_not_drained(api: KubeApi, lyra: Lyra) -> None:
    with_a_second(api)
    result = lyra("drain", POD, "--yes")
    assert result.exit_code == 1
    assert "cannot be read through the API server" in result.stderr
    assert changes(api) == []


def test_draining_a_worker_just_deletes_it(api: KubeApi, lyra: Lyra) -> None:
    result = lyra("drain", "lyra-worker-clips-0", "--yes")
    assert result.exit_code == 0, result.output
    assert changes(api) == ["DELETE /api/v1/namespaces/lyra/pods/lyra-worker-clips-0"]


def test_service_without_the_serving_label_prevents_draining(api: KubeApi, cluster: Cluster, measure: Measure) -> None:
    service = api.find("Service", "lyra-language-model")
    assert service
    del service["spec"]["selector"][SERVING_LABEL]
    api.add(service)
    with pytest.raises(Rejected, match="Service lyra-language-model, which does not select by the label"):
        plan_drain(cluster, find_release(cluster), POD)


def test_only_services_select_by_the_serving_label(api: KubeApi) -> None:
    for each in [*api.all("Deployment"), *api.all("NetworkPolicy"), *api.all("PodDisruptionBudget")]:
        selectors = [each["spec"].get("selector", {}), each["spec"].get("podSelector", {})]
        assert all(SERVING_LABEL not in (selector.get("matchLabels") or {}) for selector in selectors)


def test_unknown_pod_lists_the_existing_ones(api: KubeApi, lyra: Lyra) -> None:
    result = lyra("drain", "notebook-0", "--yes")
    assert result.exit_code == 1
    assert "release lyra has no pod notebook-0" in result.stderr
    assert POD in result.stderr
