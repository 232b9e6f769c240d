"""Evaluates the subset of PromQL used by the chart's triggers on simulated samples.

Syntax: https://prometheus.io/docs/prometheus/latest/querying/basics/. Unsupported queries raise UnknownQuery.
"""

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

SCRAPE_SECONDS = 15.0
# Labels that distinguish releases; the simulation has one.
_ANY = frozenset({"namespace", "job", "container", "pod"})
_TERM = re.compile(
    r"(?:sum|max)\s*\(\s*(?:(?P<function>increase|rate|avg_over_time|max_over_time)\s*\(\s*)?(?P<metric>lyra_\w+)\s*(?:\{(?P<labels>[^{}]*)\})?"
    r"\s*(?:\[(?P<range>\d+)(?P<unit>[smh])\]\s*\)\s*)?\)(?:\s*or\s+vector\(\s*0\s*\))?"
)
_LABEL = re.compile(r'\s*(?P<name>\w+)\s*(?P<operator>=~|=)\s*"(?P<value>[^"]*)"\s*')
_SECONDS = {"s": 1.0, "m": 60.0, "h": 3600.0}

# Value by metric and its label `service` or `queue`, "" for a metric with neither.
Samples = Mapping[tuple[str, str], float]
# `past(seconds)` returns the samples of the scrape that many seconds before the latest one.
Past = Callable[[float], Samples]


class UnknownQuery(ValueError):
    """The query is not supported."""


@dataclass(frozen=True, slots=True)
class _Term:
    metric: str
    label: re.Pattern[str]
    function: str  # "" for the value of a gauge
    seconds: float  # range of the function

    def value(self, past: Past) -> float:
        now = self._sum(past(0.0))
        match self.function:
            case "":
                return now
            case "increase":
                return max(0.0, now - self._sum(past(self.seconds)))
            case "rate":
                return max(0.0, now - self._sum(past(self.seconds))) / self.seconds
        several = [self._sum(past(SCRAPE_SECONDS * count)) for count in range(math.ceil(self.seconds / SCRAPE_SECONDS))]
        return max(several) if self.function == "max_over_time" else sum(several) / len(several)

    def _sum(self, samples: Samples) -> float:
        return sum(v for (metric, label), v in samples.items() if metric == self.metric and self.label.fullmatch(label))


@dataclass(frozen=True, slots=True)
class Query:
    """A sum of terms."""

    terms: tuple[_Term, ...]

    @classmethod
    def parse(cls, text: str) -> "Query":
        """Raises UnknownQuery."""
        terms = tuple(_term(found, text) for found in _TERM.finditer(text))
        rest = re.sub(r"\s+", "", _TERM.sub("T", text))
        while "(T)" in rest:
            rest = rest.replace("(T)", "T")
        if not re.fullmatch(r"\(*T(\+T)*\)*", rest) or rest.count("(") != rest.count(")"):
            raise UnknownQuery(
                f"{text!r} is not a sum of sum(...), max(...), sum(increase(...[2m])) and the like of metrics lyra_..."
            )
        return cls(terms)

    def value(self, past: Past) -> float:
        """The value that Prometheus would return."""
        return sum(term.value(past) for term in self.terms)


def _term(found: re.Match[str], text: str) -> _Term:
    label, parsed = ".*", 0
    labels = found["labels"] or ""
    for each in _LABEL.finditer(labels):
        parsed += each.end() - each.start()
        if each["name"] in ("service", "queue", "method"):
            label = each["value"] if each["operator"] == "=~" else re.escape(each["value"])
        elif each["name"] not in _ANY:
            raise UnknownQuery(f"{text!r}: the simulation has no label {each['name']!r}")
    if parsed + labels.count(",") < len(labels):
        raise UnknownQuery(f"{text!r}: the labels {labels!r} are not supported")
    if bool(found["function"]) != bool(found["range"]):
        raise UnknownQuery(f"{text!r}: only functions over time have a range such as [2m], and they require one")
    seconds = float(found["range"]) * _SECONDS[found["unit"]] if found["range"] else 0.0
    return _Term(found["metric"], re.compile(label), found["function"] or "", seconds)
