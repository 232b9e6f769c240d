"""Documentation refers to what exists: files, headings, tests."""

import re
from functools import cache
from pathlib import Path

import pytest

from tests.paths import ROOT

PAGES = sorted(
    page.relative_to(ROOT).as_posix()
    for page in (*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("helm/lyra/*.md"))
)
_CODE = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\]\((?!https?:)([^)#\s]*)(?:#([^)\s]+))?\)")
_TEST = re.compile(r"`((?:unit|integration|e2e|chart|images)/[\w/]+\.py)?(?:::(\w+))?(?:\[[^`]*\])?`")


@cache
def anchors(page: Path) -> set[str]:
    """Those that GitHub makes of a page's headings."""
    headings = re.findall(r"^#+ (.+)$", _CODE.sub("", page.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_to_existing_files_and_headings(page: str) -> None:
    here = ROOT / page
    text = _CODE.sub("", here.read_text())
    for target, anchor in _LINK.findall(text):
        file = (here.parent / target).resolve() if target else here
        assert file.exists(), target
        if anchor and file.suffix == ".md":
            assert anchor in anchors(file), f"{target}#{anchor}"


def test_tests_named_on_the_security_page_exist() -> None:
    file, count = "", 0
    for path, name in _TEST.findall((ROOT / "docs" / "security.md").read_text()):
        if not (path or name):
            continue
        file = path or file  # `::test_name` alone is in the file before it
        assert (ROOT / "tests" / file).exists(), file
        if name:
            assert f"def {name}(" in (ROOT / "tests" / file).read_text(), f"{file}::{name}"
            count += 1
    assert count > 20
