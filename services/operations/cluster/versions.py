"""Kubernetes versions and the ranges in a chart's `kubeVersion`.

Of Helm's syntax (https://helm.sh/docs/topics/charts/#the-kubeversion-field) only comparisons separated by spaces or
commas are supported, all of which must hold. What follows the patch number is ignored.
"""

import operator
import re

from services.operations.cluster.cluster_errors import ClusterError

# `kubeVersion` of the chart if there is no release to read it from. A test keeps it equal to helm/lyra/Chart.yaml.
CHART_RANGE = ">=1.30.0-0"

Version = tuple[int, int, int]

_VERSION = re.compile(r"v?(\d+)\.(\d+)(?:\.(\d+))?(?:[-+].*)?")
_COMPARISON = re.compile(r"(>=|<=|>|<|=|)\s*(v?\d+\.\d+(?:\.\d+)?(?:[-+][^\s,]*)?)(?=[\s,]|$)")
_OPERATORS = {
    ">=": operator.ge,
    "<=": operator.le,
    ">": operator.gt,
    "<": operator.lt,
    "=": operator.eq,
    "": operator.eq,
}


def parse_version(text: str) -> Version:
    """ "v1.33.4-eks-a1b2" is (1, 33, 4). Raises ValueError."""
    found = _VERSION.fullmatch(text.strip())
    if not found:
        raise ValueError(f"{text!r} is not a version")
    return int(found[1]), int(found[2]), int(found[3] or 0)


def in_range(version: Version, constraint: str) -> bool:
    """Whether a version is in a range such as ">=1.30.0-0 <1.38.0-0". Raises ClusterError for unsupported syntax."""
    rest = _COMPARISON.sub("", constraint).replace(",", "").strip()
    comparisons = _COMPARISON.findall(constraint)
    if rest or not comparisons:
        raise ClusterError(
            f"the chart's kubeVersion {constraint!r} is not supported here", "compare it with `kubectl version`"
        )
    return all(_OPERATORS[sign](version, parse_version(text)) for sign, text in comparisons)
