"""Versions of Kubernetes, and the ranges that a chart's `kubeVersion` gives.

Of Helm's ranges (https://helm.sh/docs/topics/charts/#the-kubeversion-field) those are read that charts use for this:
comparisons with blanks or commas between, all of which have to hold. What follows the patch number does not count.
"""

import operator
import re

from services.operations.cluster.cluster_errors import ClusterError

# What the chart asks for where no release tells: helm/lyra/Chart.yaml, held equal by a test.
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
        raise ValueError(f"{text!r} is no version")
    return int(found[1]), int(found[2]), int(found[3] or 0)


def in_range(version: Version, constraint: str) -> bool:
    """Whether a version is in a range such as ">=1.30.0-0 <1.38.0-0". Raises ClusterError for one that is not read."""
    rest = _COMPARISON.sub("", constraint).replace(",", "").strip()
    comparisons = _COMPARISON.findall(constraint)
    if rest or not comparisons:
        raise ClusterError(
            f"the chart's kubeVersion {constraint!r} is not understood", "compare it with `kubectl version`"
        )
    return all(_OPERATORS[sign](version, parse_version(text)) for sign, text in comparisons)
