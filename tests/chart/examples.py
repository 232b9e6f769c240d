"""Writes helm/lyra/examples/, the chart rendered with values-production.yaml: `make chart-examples`."""

from tests.chart.chart import CHART, fixed, of_file

EXAMPLES = CHART / "examples"
VALUES_FILE = "values-production.yaml"
EXAMPLE = EXAMPLES / "production.yaml"

_INTRODUCTION = """\
# A rendered chart

[production.yaml](production.yaml) is what `helm template lyra helm/lyra --namespace speech --values
helm/lyra/values-production.yaml` prints, with the contents of generated Secrets replaced. `make chart-examples` renders
it, and a test fails when it is out of date.

| kind | names |
| --- | --- |
"""


def rendered() -> str:
    """The content of production.yaml."""
    return fixed(of_file(VALUES_FILE).text)


def summary() -> str:
    """The content of README.md: names of the rendered objects by kind."""
    kinds: dict[str, list[str]] = {}
    for each in of_file(VALUES_FILE).objects:
        kinds.setdefault(each["kind"], []).append(each["metadata"]["name"])
    return _INTRODUCTION + "".join(f"| {kind} | {', '.join(sorted(kinds[kind]))} |\n" for kind in sorted(kinds))


if __name__ == "__main__":
    EXAMPLES.mkdir(exist_ok=True)
    EXAMPLE.write_text(rendered())
    (EXAMPLES / "README.md").write_text(summary())
