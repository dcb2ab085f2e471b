"""The reference pages are what the code says."""

from pathlib import Path

import pytest

from klais.cli.reference import PAGES

DOCS = Path(__file__).parents[3] / "docs"


@pytest.mark.parametrize("page", PAGES)
def test_the_committed_page_is_what_the_code_makes(page: str) -> None:
    assert (DOCS / page).read_text() == PAGES[page](), "run `python -m klais.cli.reference docs` and commit the result"


def test_every_metric_and_setting_has_a_meaning() -> None:
    for make in PAGES.values():
        rows = [line for line in make().splitlines() if line.startswith("| `")]
        assert len(rows) > 40
        assert not [row for row in rows if row.endswith("|  |")]
