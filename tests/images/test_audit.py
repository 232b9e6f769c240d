"""The audit of locked dependencies against the pinned advisories."""

import json
from pathlib import Path
from typing import Any

import pytest
from packaging.utils import canonicalize_name
from packaging.version import Version

from requirements import audit


def advisory(identifier: str, package: str, *events: dict[str, str]) -> dict[str, Any]:
    return {
        "schema_version": "1.6.7",
        "id": identifier,
        "modified": "2026-01-01T00:00:00Z",
        "summary": "Something breaks.",
        "affected": [
            {
                "package": {"ecosystem": "PyPI", "name": package},
                "ranges": [{"type": "ECOSYSTEM", "events": list(events)}],
            }
        ],
    }


@pytest.fixture
def snapshot(tmp_path: Path) -> Path:
    path = tmp_path / "advisories.json"
    records = [advisory("PYSEC-0", "Some.Package", {"introduced": "2.0"}, {"fixed": "2.3"})]
    path.write_text(json.dumps({"taken": "2026-01-01", "advisories": records}))
    return path


def lock(folder: Path, text: str) -> Path:
    path = folder / "lock.txt"
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    ("version", "affected"), [("1.9", False), ("2.0", True), ("2.2.9", True), ("2.3rc1", True), ("2.3", False)]
)
def test_versions_from_introduction_to_fix_are_affected(version: str, affected: bool) -> None:
    record = advisory("PYSEC-1", "a", {"fixed": "2.3"}, {"introduced": "2.0"})

    assert audit.affects(record["affected"][0], Version(version)) is affected


def test_several_ranges_and_last_affected_versions() -> None:
    events = ({"introduced": "0"}, {"fixed": "1.0"}, {"introduced": "1.5"}, {"last_affected": "1.6"})
    affected = advisory("PYSEC-2", "a", *events)["affected"][0]

    assert [audit.affects(affected, Version(each)) for each in ("0.1", "1.0", "1.5", "1.6", "1.6.1")] == [
        True,
        False,
        True,
        True,
        False,
    ]


def test_audit_fails_for_affected_versions_under_any_spelling(
    snapshot: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    code = audit.audit(snapshot, [lock(tmp_path, "some_package==2.2\nother==1.0\n")])

    assert code == 1
    assert "PYSEC-0" in capfd.readouterr().out


def test_audit_passes_if_the_version_is_fixed_or_the_advisory_accepted(snapshot: Path, tmp_path: Path) -> None:
    assert audit.audit(snapshot, [lock(tmp_path, "some-package==2.3\n")]) == 0
    assert audit.audit(snapshot, [lock(tmp_path, "some-package==2.2\n")], accepted={"PYSEC-0": "nobody calls it"}) == 0


def test_empty_or_unmatchable_snapshot_is_rejected(tmp_path: Path) -> None:
    path = tmp_path / "advisories.json"
    path.write_text(json.dumps({"taken": "2026-01-01", "advisories": []}))
    with pytest.raises(ValueError, match="no advisories"):
        audit.read_snapshot(path)

    path.write_text(json.dumps({"taken": "", "advisories": [advisory("PYSEC-3", "a", {"introduced": "one"})]}))
    with pytest.raises(ValueError, match="one"):
        audit.read_snapshot(path)


def test_renewed_snapshot_contains_advisories_of_locked_packages(snapshot: Path, tmp_path: Path) -> None:
    known = [
        advisory("PYSEC-5", "locked", {"introduced": "0"}),
        advisory("PYSEC-4", "locked", {"introduced": "0"}),
        advisory("PYSEC-6", "elsewhere", {"introduced": "0"}),
    ]
    with audit.osv_server(known) as url:
        count = audit.renew(url, snapshot, [lock(tmp_path, "locked==1.0\n")])

    assert count == 2
    assert [each["id"] for each in audit.read_snapshot(snapshot)] == ["PYSEC-4", "PYSEC-5"]


def test_accepted_advisories_still_affect_a_locked_version() -> None:
    advisories, packages = audit.read_snapshot(), audit.pinned()

    affecting = {
        record["id"]
        for name, versions in packages.items()
        for version in versions
        for record in audit.matching(advisories, name, version)
    }
    assert audit.ACCEPTED.keys() <= affecting


def test_committed_snapshot_is_readable() -> None:
    packages = audit.pinned()

    named = {
        canonicalize_name(affected["package"]["name"])
        for record in audit.read_snapshot()
        for affected in record["affected"]
    }
    assert named <= packages.keys(), "advisories about packages that nothing locks"
