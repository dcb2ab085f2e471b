"""The vendored libraries are those of the list, and no module of ours writes HTML."""

import hashlib
import json
import re
from pathlib import Path

STATIC = Path(__file__).parents[3] / "klais" / "ui" / "static"
FORBIDDEN = re.compile(
    r"innerHTML|outerHTML|dangerouslySetInnerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function"
)


def test_vendored_files_have_the_hashes_of_the_list() -> None:
    listed = json.loads((STATIC / "vendor" / "VENDOR.json").read_text())
    there = {path.name for path in (STATIC / "vendor").iterdir()} - {"VENDOR.json"}
    assert there == set(listed)
    for name, about in listed.items():
        assert hashlib.sha256((STATIC / "vendor" / name).read_bytes()).hexdigest() == about["sha256"], name
        assert about["licence"] and about["text"], name


def test_no_module_of_ours_writes_html_or_makes_code() -> None:
    modules = sorted(STATIC.glob("*.js"))
    assert len(modules) > 10
    for path in modules:
        assert not FORBIDDEN.search(path.read_text()), path.name


def test_lines_are_short_and_imports_are_relative() -> None:
    for path in [*STATIC.glob("*.js"), *STATIC.glob("*.css"), *STATIC.glob("*.html")]:
        long = [line for line in path.read_text().splitlines() if len(line) > 120]
        assert not long, path.name
        assert not re.findall(r'from "(?!\./)', path.read_text()), path.name
