"""Renderings that the tests of the chart share."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.chart import combinations
from tests.chart.chart import VALUES_FILES, Rendering, of_file, render


@pytest.fixture(scope="session")
def combined() -> tuple[Rendering, ...]:
    """The chart with each of the forty combinations; half of them as a release whose name contains "lyra"."""
    rows = combinations.covering_rows()

    def one(number: int) -> Rendering:
        row, release = rows[number], ("demo", "my-lyra")[number % 2]
        name = f"combination {number}: " + ", ".join(f"{switch} {setting}" for switch, setting in row.items())
        return render(combinations.values_of(row), release=release, name=name)

    with ThreadPoolExecutor(2) as threads:
        return tuple(threads.map(one, range(len(rows))))


@pytest.fixture(scope="session")
def renderings(combined: tuple[Rendering, ...]) -> tuple[Rendering, ...]:
    """All renderings under test: default values, each values file, each combination."""
    return (render(name="values.yaml"), *map(of_file, VALUES_FILES), *combined)


@pytest.fixture(scope="session")
def production() -> Rendering:
    return of_file("values-production.yaml")


@pytest.fixture(scope="session")
def nano() -> Rendering:
    return of_file("values-nano.yaml")
