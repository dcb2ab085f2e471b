"""Fill figures and tables of docs/RESEARCH_PAPER.md from the kept result files; markers enclose them.

``<!-- figure BENCH.NAME UNIT -->...<!-- /figure -->`` is one figure in a sentence. ``<!-- table NAME -->`` and
``<!-- /table -->``, each on a separate line, enclose a table of ``bench/paper_tables.py``. ``python -m bench results``
rewrites the text between the markers. Each benchmark comes from the newest file that has it; missing figures are marked
as not measured.
"""

import re
from collections.abc import Sequence
from pathlib import Path

from bench.figures import Figure, ResultFile
from bench.harness.report import shown
from bench.kept import NOT_MEASURED, KeptSamples, spread
from bench.paper_tables import BENCHES, TABLES

PAPER = Path(__file__).parents[1] / "docs" / "RESEARCH_PAPER.md"
# Sections that report measurements: every number with a unit there must be between markers.
REPORTING = ("Abstract", "Evaluation", "Claims", "Conclusion")
_FIGURE = re.compile(r"<!-- figure (\S+)(?: (\S+))? -->(.*?)<!-- /figure -->", re.DOTALL)
_TABLE = re.compile(r"(<!-- table (\S+) -->\n).*?(<!-- /table -->)", re.DOTALL)
_UNITS = "ns|µs|us|ms|s|seconds?|min|minutes?|h|hours?|[KMG]i?B|bytes|cores?|frames?|records?|times|per cent|million|x"
_MEASURED = re.compile(rf"(?<![\w.])\d[\d.,]*(?: to \d[\d.,]*)?[  ]?(?:%|(?:{_UNITS})(?![\w-]))")


class BadPaper(Exception):
    """A marker of the paper names an unknown figure or table, or has no end."""


def sentence(figure: Figure | None, unit: str) -> str:
    """A figure in a sentence, with its unit and its spread."""
    if figure is None:
        return NOT_MEASURED
    between = spread(figure)
    return f"{shown(figure.value)} {unit}".strip() + (f" ({between})" if between else "")


def filled(text: str, kept: KeptSamples) -> str:
    """The paper with new text between its markers.

    Raises
    ------
    BadPaper
        If a marker names an unknown table or benchmark, or has no end.
    """

    def a_figure(match: re.Match[str]) -> str:
        path, unit = match[1], match[2] or ""
        if path.partition(".")[0] not in BENCHES:
            raise BadPaper(f"figure {path}: there is no such benchmark")
        head = f"<!-- figure {path} {unit}".rstrip()
        return f"{head} -->{sentence(kept.figure(path), unit)}<!-- /figure -->"

    def a_table(match: re.Match[str]) -> str:
        if match[2] not in TABLES:
            raise BadPaper(f"table {match[2]}: there is none of this name in bench/paper_tables.py")
        lines = TABLES[match[2]].lines(kept)
        return "\n".join([match[1], *lines, "", match[3]])

    out = _TABLE.sub(a_table, _FIGURE.sub(a_figure, text))
    for kind, pattern in (("figure", _FIGURE), ("table", _TABLE)):
        begins, ends = (out.count(f"<!-- {mark} ") for mark in (kind, f"/{kind}"))
        if not begins == ends == len(pattern.findall(out)):
            raise BadPaper(f"{begins} markers begin a {kind}, {ends} end one")
    return out


def sections(text: str) -> dict[str, str]:
    """Sections (``##``) by their titles without numbers; a section has its subsections."""
    parts = re.split(r"^## (?:\d+\. )?(.*)$", text, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def unmarked(text: str) -> list[str]:
    """Numbers with a unit in the sections that report, outside of all markers and code."""
    found = []
    for title, body in sections(text).items():
        if title.split()[0] in REPORTING:
            plain = re.sub(r"```.*?```|`[^`\n]*`", "", _TABLE.sub("", _FIGURE.sub("", body)), flags=re.DOTALL)
            found += [f"{title}: {match[0]}" for match in _MEASURED.finditer(plain)]
    return found


def write(files: Sequence[ResultFile]) -> list[str]:
    """Write the paper; return the figures of its markers that no file has."""
    kept = KeptSamples(files)
    PAPER.write_text(filled(PAPER.read_text(), kept))
    return sorted(set(kept.missing))
