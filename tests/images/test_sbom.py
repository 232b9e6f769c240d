"""The software bill of materials."""

import json
import subprocess

import pytest

from requirements import audit
from tests.paths import ROOT


@pytest.mark.parametrize("image", ["services", "models"])
def test_sbom_lists_every_locked_package_with_version_and_hashes(image: str) -> None:
    file = f"sbom/{image}.cdx.json"
    subprocess.run(["make", "--always-make", file], cwd=ROOT, check=True, capture_output=True)

    bill = json.loads((ROOT / file).read_text())
    listed = {(each["name"], each["version"]) for each in bill["components"]}
    pinned = audit.pinned([ROOT / "requirements" / f"{image}.txt"])
    assert bill["bomFormat"] == "CycloneDX"
    assert {name for name, _ in listed} == pinned.keys()
    assert all(version in pinned[name] for name, version in listed)
    assert all(each["externalReferences"][0]["hashes"] for each in bill["components"])
