"""Writes helm/lyra/examples/, what each values file makes: `make chart-examples`."""

from tests.chart.chart import CHART, VALUES_FILES, fixed, of_file

EXAMPLES = CHART / "examples"

_INTRODUCTION = """\
# What the chart makes

Rendered by `make chart-examples`: `helm template lyra helm/lyra --namespace speech --values ...`, with the content of
Secrets that are made at install replaced. A test holds that they are what the chart renders today.
"""


def example(file: str) -> str:
    """Name of the example of a values file."""
    return file.removeprefix("values-")


def summary() -> str:
    """README.md: the objects of each example by kind."""
    lines = [_INTRODUCTION]
    for file in VALUES_FILES:
        lines += [f"## [{example(file)}]({example(file)})", "", "| kind | names |", "| --- | --- |"]
        kinds: dict[str, list[str]] = {}
        for each in of_file(file).objects:
            kinds.setdefault(each["kind"], []).append(each["metadata"]["name"])
        lines += [f"| {kind} | {', '.join(sorted(kinds[kind]))} |" for kind in sorted(kinds)]
        lines.append("")
    return "\n".join(lines)


if __name__ == "__main__":
    EXAMPLES.mkdir(exist_ok=True)
    for name in VALUES_FILES:
        (EXAMPLES / example(name)).write_text(fixed(of_file(name).text))
    (EXAMPLES / "README.md").write_text(summary())
