"""The requirements of the images are part of the lock, complete and minimal."""

import re
import sys
from functools import cache
from importlib.metadata import packages_distributions
from itertools import chain

import grimp
import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from services.operations.local.stack import SERVICES
from tests.images.image_tree import PROJECT, REQUIREMENTS, applicable_pins, pins

OURS = ("services", "model_core", "cli", "lyra")
MODULES = {
    "services": ["services.gateway", "services.worker.__main__", "services.worker.clock"],
    "models": [f"services.{name}.__main__" for name in SERVICES],
}


def locked(name: str) -> dict[str, set[str]]:
    """Hashes by `name==version`."""
    found: dict[str, set[str]] = {}
    pin = ""
    for line in (REQUIREMENTS / f"{name}.txt").read_text().splitlines():
        if match := re.match(r"\s+--hash=(\S+)", line):
            found[pin].add(match[1])
        elif line and not line.startswith("#"):
            pin = line.split()[0]
            found[pin] = set()
    return found


@pytest.mark.parametrize("name", ["build", "services", "models"])
def test_versions_and_hashes_are_those_of_the_lock(name: str) -> None:
    lock = locked("lock")
    assert {pin: hashes for pin, hashes in locked(name).items() if lock.get(pin) != hashes} == {}


@pytest.mark.parametrize("name", ["build", "services", "models", "torch-cpu", "torch-cuda"])
def test_every_package_has_hashes(name: str) -> None:
    assert [pin for pin, hashes in locked(name).items() if not hashes] == []


@pytest.mark.parametrize(("name", "group"), [("build", "image-build"), ("services", "image-services")])
def test_requirements_contain_their_dependency_group(name: str, group: str) -> None:
    """Fails if the group has changed since `make lock-images`."""
    there = {canonicalize_name(pin.name) for pin in pins(REQUIREMENTS / f"{name}.txt")}
    assert set(PROJECT["dependency-groups"][group]) - there == set()


def test_torch_has_one_version() -> None:
    found = {
        str(pin.specifier).partition("+")[0]
        for file in ("torch", "torch-cpu", "torch-cuda")
        for pin in pins(REQUIREMENTS / f"{file}.txt")
        if pin.name == "torch"
    }
    assert len(found) == 1


@pytest.mark.parametrize("family", ["services", "models"])
def test_every_import_is_in_the_requirements(family: str) -> None:
    """Includes imports inside functions: grimp reads the source."""
    listed = {canonicalize_name(pin.name) for pin in applicable_pins(REQUIREMENTS / f"{family}.txt")}
    if family == "models":
        extras = PROJECT["project"].get("optional-dependencies", {}).values()
        listed |= {canonicalize_name(Requirement(each).name) for each in ("torch", *chain(*extras))}
    known, missing = packages_distributions(), {}
    for module in imported(MODULES[family]):
        providers = {canonicalize_name(name) for name in known.get(module, [module])}
        if not providers & listed:
            missing[module] = providers
    assert missing == {}


@cache
def source_graph() -> grimp.ImportGraph:
    """Import graph."""
    return grimp.build_graph(*OURS, include_external_packages=True, cache_dir=None)


def imported(modules: list[str]) -> set[str]:
    """Third-party packages that these modules import directly or through other modules of Lyra."""
    graph = source_graph()
    seen: set[str] = set()
    # The gateway finds its API groups by their folders, which no import statement shows.
    waiting = [each for module in modules for each in (module, *graph.find_descendants(module))]
    while waiting:
        module = waiting.pop()
        if module not in seen:
            seen.add(module)
            waiting += graph.find_modules_directly_imported_by(module)
    tops = {module.split(".")[0] for module in seen}
    return tops - set(OURS) - sys.stdlib_module_names


def test_services_need_no_torch() -> None:
    heavy = {"torch", "transformers", "tokenizers", "onnx", "pyarrow", "matplotlib", "kubernetes", "nvidia-cublas"}
    assert heavy & {pin.name for pin in pins(REQUIREMENTS / "services.txt")} == set()
