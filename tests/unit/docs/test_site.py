"""Every page has its place on the site that `make docs` builds; the build itself is part of `make release-test`."""

import re
from pathlib import Path

REPO = Path(__file__).parents[3]
INDEX = REPO / "docs" / "site" / "index.md"


def test_every_page_has_one_place_in_the_order_of_the_site() -> None:
    blocks = re.findall(r"```\{toctree\}\n(.*?)```", INDEX.read_text(), re.DOTALL)
    named = [line for block in blocks for line in block.splitlines() if line and not line.startswith(":")]
    assert len(named) == len(set(named))
    placed = {page.resolve() for name in named for page in INDEX.parent.glob(f"{name}.md")}
    assert [name for name in named if not list(INDEX.parent.glob(f"{name}.md"))] == []
    pages = {page for page in (REPO / "docs").rglob("*.md") if page != INDEX}
    assert pages - placed == set(), "docs/site/index.md lacks a page"


def test_the_order_is_that_of_what_a_reader_wants() -> None:
    captions = re.findall(r"^:caption: (.*)$", INDEX.read_text(), re.MULTILINE)
    assert captions == ["Tutorial", "How-to", "Reference", "Explanation"]
