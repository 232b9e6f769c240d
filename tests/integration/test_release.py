"""`make release` tags what the changelog describes, and nothing else."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.paths import ROOT

CHANGELOG = """# Changelog

## [Unreleased]

- Later.

## [1.2.0] - 2026-11-28

### Added

- Speech.

## [1.1.0]

- Text.

[1.2.0]: https://example.com
"""


class Repository:
    """A scratch repository with the release script and a version."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / ".ci").mkdir()
        shutil.copy(ROOT / ".ci" / "release", folder / ".ci" / "release")
        (folder / "CHANGELOG.md").write_text(CHANGELOG)
        self.git("init", "--quiet")
        self.commit_version("1.2.0")

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        identity = {f"GIT_{role}_{field}": "x@y" for role in ("AUTHOR", "COMMITTER") for field in ("NAME", "EMAIL")}
        environment = os.environ | identity | {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_SYSTEM": os.devnull}
        return subprocess.run(
            command, cwd=self.folder, env=environment, capture_output=True, text=True, check=False, timeout=60
        )

    def git(self, *arguments: str) -> str:
        done = self.run("git", *arguments)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def commit_version(self, version: str) -> None:
        (self.folder / "pyproject.toml").write_text(f'[project]\nname = "lyra"\nversion = "{version}"\n')
        self.git("add", "--all")
        self.git("commit", "--quiet", "--message", version)

    def release(self) -> subprocess.CompletedProcess[str]:
        return self.run(".ci/release")

    @property
    def tags(self) -> list[str]:
        return self.git("tag").split()


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    return Repository(tmp_path)


def test_a_release_is_an_annotated_tag_with_its_section_of_the_changelog(repository: Repository) -> None:
    done = repository.release()
    assert done.returncode == 0, done.stderr
    assert repository.tags == ["v1.2.0"]
    assert repository.git("cat-file", "-t", "v1.2.0").strip() == "tag"
    message = repository.git("tag", "--list", "--format=%(contents)", "v1.2.0").strip()
    assert message == "Lyra 1.2.0\n\n### Added\n\n- Speech."
    assert repository.git("rev-parse", "v1.2.0^{commit}") == repository.git("rev-parse", "HEAD")


def test_the_last_section_ends_before_the_links(repository: Repository) -> None:
    repository.commit_version("1.1.0")
    assert repository.release().returncode == 0
    message = repository.git("tag", "--list", "--format=%(contents)", "v1.1.0").strip()
    assert message == "Lyra 1.1.0\n\n- Text."


def test_a_version_without_a_section_is_not_tagged(repository: Repository) -> None:
    repository.commit_version("1.3.0")
    done = repository.release()
    assert done.returncode == 1
    assert 'CHANGELOG.md has no section "## [1.3.0]"' in done.stderr
    assert repository.tags == []


def test_a_version_that_is_only_a_prefix_of_a_section_is_not_tagged(repository: Repository) -> None:
    repository.commit_version("1.2")
    assert repository.release().returncode == 1
    assert repository.tags == []


@pytest.mark.parametrize("file", ["pyproject.toml", "new.txt"])
def test_a_tree_with_uncommitted_changes_is_not_tagged(repository: Repository, file: str) -> None:
    with (repository.folder / file).open("a") as open_file:
        open_file.write("x")
    done = repository.release()
    assert done.returncode == 1
    assert "uncommitted changes" in done.stderr
    assert repository.tags == []


def test_a_version_is_tagged_only_once(repository: Repository) -> None:
    assert repository.release().returncode == 0
    done = repository.release()
    assert done.returncode == 1
    assert "tag v1.2.0 exists already" in done.stderr


def test_this_repository_has_one_version_to_release() -> None:
    versions = [line for line in (ROOT / "pyproject.toml").read_text().splitlines() if line.startswith("version = ")]
    assert len(versions) == 1
