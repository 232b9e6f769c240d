"""Audits the locked dependencies against a pinned snapshot of advisories, offline: `make audit`.

`advisories.json` contains records in the OSV schema (https://ossf.github.io/osv-schema/) for the locked packages.
pip-audit queries an OSV server, which here is a local server that responds from the snapshot. `make advisories` updates
the snapshot from the real server.
"""

import argparse
import json
import re
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import MappingProxyType
from typing import Any

from packaging.utils import canonicalize_name
from packaging.version import Version

FOLDER = Path(__file__).parent
SNAPSHOT = FOLDER / "advisories.json"
LOCKS = (FOLDER / "lock.txt", FOLDER / "torch.txt")
OSV_QUERY = "https://api.osv.dev/v1/query"

# Advisories that affect a locked version but not our use of it, with the reason.
ACCEPTED = {
    "CVE-2026-136426": "torch: torch.export packages (PT2) are never read; checkpoints are only read as tensors",
    "CVE-2026-75104": "transformers: checkpoints are read by model_core/checkpoints, which never leaves their folder",
}

_PINNED = re.compile(r"^([A-Za-z0-9][\w.\-]*)==([^\s;\\]+)", re.MULTILINE)
_SECONDS = 30.0
_KEPT = ("schema_version", "id", "aliases", "modified", "published", "withdrawn", "summary")


def pinned(locks: Sequence[Path] = LOCKS) -> dict[str, set[str]]:
    """Pinned versions by canonical package name; several if they differ between platforms."""
    versions: dict[str, set[str]] = {}
    for lock in locks:
        for name, version in _PINNED.findall(lock.read_text()):
            versions.setdefault(canonicalize_name(name), set()).add(version)
    return versions


def read_snapshot(path: Path = SNAPSHOT) -> list[dict[str, Any]]:
    """The records of a snapshot.

    Raises:
        ValueError: It is not JSON, or its records are not in the OSV schema, so that an audit would find nothing.
    """
    records = json.loads(path.read_text())["advisories"]
    for record in records:
        for affected in record["affected"]:
            if affected["package"]["ecosystem"] != "PyPI":
                raise ValueError(f"{record['id']} does not affect a PyPI package")
            # Parses all versions, so that an invalid record raises here instead of being skipped.
            affects(affected, Version("1"))
    if not records:
        raise ValueError(f"{path.name} contains no advisories")
    return list(records)


def affects(affected: dict[str, Any], version: Version) -> bool:
    """Whether a version is affected according to OSV's evaluation algorithm: listed, or in an ECOSYSTEM range."""
    if any(Version(listed) == version for listed in affected.get("versions", ())):
        return True
    return any(_within(span["events"], version) for span in affected.get("ranges", ()) if span["type"] == "ECOSYSTEM")


def _within(events: Sequence[dict[str, str]], version: Version) -> bool:
    vulnerable = False
    for event in sorted(events, key=_event_version):
        at = _event_version(event)
        if "introduced" in event and version >= at:
            vulnerable = True
        elif ("fixed" in event and version >= at) or ("last_affected" in event and version > at):
            vulnerable = False
    return vulnerable


def _event_version(event: dict[str, str]) -> Version:
    (text,) = event.values()
    return Version(text)


@contextmanager
def osv_server(advisories: Sequence[dict[str, Any]]) -> Iterator[str]:
    """Serves OSV's `POST /v1/query` with these records on loopback; yields its URL.

    Like OSV, returns all records of the package if the query has no version.
    """

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            query = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            found = matching(advisories, query["package"]["name"], query.get("version"))
            body = json.dumps({"vulns": found} if found else {}).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *arguments: Any) -> None:
            """Does not log requests."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}/v1/query"
        finally:
            server.shutdown()
            thread.join()


def matching(advisories: Sequence[dict[str, Any]], name: str, version: str | None) -> list[dict[str, Any]]:
    """Records that affect a package, or one version of it."""
    return [
        record
        for record in advisories
        if any(
            canonicalize_name(affected["package"]["name"]) == canonicalize_name(name)
            and (version is None or affects(affected, Version(version)))
            for affected in record["affected"]
        )
    ]


def audit(
    snapshot: Path = SNAPSHOT, locks: Sequence[Path] = LOCKS, accepted: Mapping[str, str] = MappingProxyType(ACCEPTED)
) -> int:
    """Runs pip-audit on the locks. Returns its exit code: 0 if no locked version is affected, else 1."""
    advisories = read_snapshot(snapshot)
    taken = json.loads(snapshot.read_text())["taken"]
    packages = pinned(locks)
    print(f"{len(packages)} locked packages against {len(advisories)} advisories taken on {taken}", flush=True)
    for identifier, reason in accepted.items():
        print(f"{identifier} is accepted: {reason}", flush=True)
    with osv_server(advisories) as url:
        command = [sys.executable, "-m", "pip_audit", "--disable-pip", "--no-deps", "--progress-spinner", "off"]
        command += ["--vulnerability-service", "osv", "--osv-url", url, "--aliases", "on"]
        command += [f"--ignore-vuln={each}" for each in accepted]
        return max(subprocess.run([*command, "-r", str(lock)], check=False).returncode for lock in locks)


def renew(url: str = OSV_QUERY, snapshot: Path = SNAPSHOT, locks: Sequence[Path] = LOCKS) -> int:
    """Fetches the records of the locked packages from an OSV server and writes the snapshot. Returns their number."""
    found: dict[str, dict[str, Any]] = {}
    for name in sorted(pinned(locks)):
        for record in _ask(url, name):
            found[record["id"]] = _facts(record)
    taken = datetime.now(UTC).date().isoformat()
    part = snapshot.with_suffix(".part")
    records = [found[each] for each in sorted(found)]
    lines = ",\n".join(json.dumps(record, ensure_ascii=False) for record in records)
    part.write_text(f'{{"taken": "{taken}", "advisories": [\n{lines}\n]}}\n')
    read_snapshot(part)
    part.replace(snapshot)
    return len(found)


def _ask(url: str, name: str) -> Iterator[dict[str, Any]]:
    """All records of a package, page by page."""
    query: dict[str, Any] = {"package": {"name": name, "ecosystem": "PyPI"}}
    while True:
        request = urllib.request.Request(url, json.dumps(query).encode(), {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=_SECONDS) as response:
            answer = json.load(response)
        yield from answer.get("vulns", ())
        if not answer.get("next_page_token"):
            return
        query["page_token"] = answer["next_page_token"]


def _facts(record: dict[str, Any]) -> dict[str, Any]:
    """The parts of a record used for matching and the report, without long texts and other ecosystems."""
    kept = {name: record[name] for name in _KEPT if name in record}
    kept["affected"] = [
        {name: affected[name] for name in ("package", "ranges", "versions") if name in affected}
        for affected in record.get("affected", ())
        if affected.get("package", {}).get("ecosystem") == "PyPI"
    ]
    for affected in kept["affected"]:
        affected["ranges"] = [span for span in affected.get("ranges", ()) if span["type"] == "ECOSYSTEM"]
        if affected["ranges"]:
            affected.pop("versions", None)  # redundant with the ranges
    return kept


def main() -> int:
    """Returns the exit code: 1 if a locked version is affected, else 0."""
    parser = argparse.ArgumentParser(prog="python requirements/audit.py", description=__doc__)
    parser.add_argument("--renew", action="store_true", help="update the snapshot instead; requires a network")
    parser.add_argument("--osv-url", default=OSV_QUERY, help="OSV server to fetch from (default: %(default)s)")
    options = parser.parse_args()
    if options.renew:
        try:
            print(f"{renew(options.osv_url)} advisories written to {SNAPSHOT.name}")
        except OSError as error:
            print(f"{options.osv_url} cannot be reached ({error}); {SNAPSHOT.name} is unchanged", file=sys.stderr)
            return 1
        return 0
    return audit()


if __name__ == "__main__":
    sys.exit(main())
