"""Rendered objects are valid for Kubernetes, KEDA, the Prometheus operator and the Gateway API."""

import json
from collections.abc import Iterable

import kubernetes_validate
import pytest

from tests.chart.chart import Object, Rendering
from tests.chart.validation import CUSTOM, newest_versions, problems


def distinct(renderings: Iterable[Rendering]) -> list[Object]:
    """Objects of all renderings without duplicates."""
    return list({json.dumps(each, sort_keys=True): each for one in renderings for each in one.objects}.values())


@pytest.mark.parametrize("version", newest_versions(2))
def test_objects_are_valid_for_the_newest_versions_of_kubernetes(
    renderings: tuple[Rendering, ...], version: str
) -> None:
    found = [problem for each in distinct(renderings) for problem in problems(each, version)]

    assert not found


def test_cached_validation_agrees_with_kubernetes_validate(nano: Rendering) -> None:
    version = newest_versions(1)[0]
    deployment = nano.get("Deployment", "-language-model")
    kubernetes_validate.validate(deployment, version, strict=True)
    broken = json.loads(json.dumps(deployment))
    broken["spec"]["template"]["spec"]["containers"][0]["imagePullPolice"] = "Always"

    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(broken, version, strict=True)
    assert any("imagePullPolice" in problem for problem in problems(broken, version))


@pytest.mark.parametrize("kind", sorted(CUSTOM))
def test_custom_resources_with_an_unknown_field_are_invalid(renderings: tuple[Rendering, ...], kind: str) -> None:
    known = next(each for rendering in renderings for each in rendering.of(kind))
    broken = {**known, "spec": {**known["spec"], "pollInterval": 5}}

    assert any("pollInterval" in problem for problem in problems(broken, newest_versions(1)[0]))
