"""Audits the locked dependencies against a pinned snapshot of advisories, without a network: `make audit`.

`advisories.json` beside this file holds records in the OSV schema (https://ossf.github.io/osv-schema/) for the packages
of the locks. pip-audit, which does the matching of names and the report, asks an OSV server; here that is a server on
loopback that answers from the snapshot. `make advisories` renews the snapshot from the real one.
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

# Advisories that touch a locked version and nothing that we do; each names what would have to change for it to matter.
ACCEPTED = {
    "CVE-2026-136426": "torch: packages of torch.export (PT2) are read nowhere; checkpoints are read as tensors alone",
    "CVE-2026-75104": "transformers: checkpoints are read by model_core/checkpoints, which keeps to their folder",
}

_PINNED = re.compile(r"^([A-Za-z0-9][\w.\-]*)==([^\s;\\]+)", re.MULTILINE)
_SECONDS = 30.0
_KEPT = ("schema_version", "id", "aliases", "modified", "published", "withdrawn", "summary")


def pinned(locks: Sequence[Path] = LOCKS) -> dict[str, set[str]]:
    """Versions by canonical name of package, as the locks pin them; markers for other platforms make several."""
    versions: dict[str, set[str]] = {}
    for lock in locks:
        for name, version in _PINNED.findall(lock.read_text()):
            versions.setdefault(canonicalize_name(name), set()).add(version)
    return versions


def read_snapshot(path: Path = SNAPSHOT) -> list[dict[str, Any]]:
    """The records of a snapshot.

    Raises:
        ValueError: It is not JSON, or its records are not OSV's; an audit by it would find nothing.
    """
    records = json.loads(path.read_text())["advisories"]
    for record in records:
        for affected in record["affected"]:
            if affected["package"]["ecosystem"] != "PyPI":
                raise ValueError(f"{record['id']} is not about a package of PyPI")
            # Reads every version, so that a record that cannot be matched is found here and not passed over.
            affects(affected, Version("1"))
    if not records:
        raise ValueError(f"{path.name} holds no advisory")
    return list(records)


def affects(affected: dict[str, Any], version: Version) -> bool:
    """Whether a version is affected, by OSV's evaluation algorithm: listed, or within a range of ecosystem versions."""
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
    """Serves OSV's `POST /v1/query` from these records on loopback; yields its URL.

    Without a version in the query all records of the package are answered, as OSV does.
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
            """Says nothing: the report is what counts."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}/v1/query"
        finally:
            server.shutdown()
            thread.join()


def matching(advisories: Sequence[dict[str, Any]], name: str, version: str | None) -> list[dict[str, Any]]:
    """Records about a package, or about one version of it."""
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
    """Runs pip-audit over the locks; its exit code: 0 where no locked version is affected, 1 where one is."""
    advisories = read_snapshot(snapshot)
    taken = json.loads(snapshot.read_text())["taken"]
    packages = pinned(locks)
    print(f"{len(packages)} locked packages against {len(advisories)} advisories taken on {taken}", flush=True)
    for identifier, reason in accepted.items():
        print(f"{identifier} is accepted; {reason}", flush=True)
    with osv_server(advisories) as url:
        command = [sys.executable, "-m", "pip_audit", "--disable-pip", "--no-deps", "--progress-spinner", "off"]
        command += ["--vulnerability-service", "osv", "--osv-url", url, "--aliases", "on"]
        command += [f"--ignore-vuln={each}" for each in accepted]
        return max(subprocess.run([*command, "-r", str(lock)], check=False).returncode for lock in locks)


def renew(url: str = OSV_QUERY, snapshot: Path = SNAPSHOT, locks: Sequence[Path] = LOCKS) -> int:
    """Asks an OSV server for all about the locked packages and writes the snapshot. How many records it holds."""
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
    """All records of a package, page after page."""
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
    """What matching and the report need of a record: long texts and other ecosystems stay behind."""
    kept = {name: record[name] for name in _KEPT if name in record}
    kept["affected"] = [
        {name: affected[name] for name in ("package", "ranges", "versions") if name in affected}
        for affected in record.get("affected", ())
        if affected.get("package", {}).get("ecosystem") == "PyPI"
    ]
    for affected in kept["affected"]:
        affected["ranges"] = [span for span in affected.get("ranges", ()) if span["type"] == "ECOSYSTEM"]
        if affected["ranges"]:
            affected.pop("versions", None)  # the same, told at length
    return kept


def main() -> int:
    """0, or 1 where a locked version is affected."""
    parser = argparse.ArgumentParser(prog="python requirements/audit.py", description=__doc__)
    parser.add_argument("--renew", action="store_true", help="fetch the snapshot anew instead; needs a network")
    parser.add_argument("--osv-url", default=OSV_QUERY, help="OSV server to fetch from (default: %(default)s)")
    options = parser.parse_args()
    if options.renew:
        try:
            print(f"{renew(options.osv_url)} advisories written to {SNAPSHOT.name}")
        except OSError as error:
            print(f"{options.osv_url} cannot be asked ({error}); {SNAPSHOT.name} stays as it is", file=sys.stderr)
            return 1
        return 0
    return audit()


if __name__ == "__main__":
    sys.exit(main())
