"""``python -m bench.paper_pdf [FILE.pdf]``: the paper as PDF, made offline by the Chromium that the browser tests use.

The libraries are those of the extra ``dev``.
"""

import re
import sys
from pathlib import Path

from bench.paper import PAPER

BUILT = PAPER.parents[1] / "build" / "klais-paper.pdf"
CHROMIUM = "/usr/bin/chromium"
_COMMENT = re.compile(r"^<!-- .*? -->\n|<!-- .*? -->", re.MULTILINE)
_PLOT = re.compile(r'<img src="(plots/[a-z-]+\.svg)"[^>]*>')
_STYLE = """
@page { size: A4; margin: 17mm 18mm }
body { font: 9.5pt/1.3 serif; hyphens: auto }
h1 { font-size: 17pt } h1, h1 + p { text-align: center } h2 { font-size: 12.5pt } h3 { font-size: 10.5pt }
h1, h2, h3, tr { break-inside: avoid; break-after: avoid-page }
table { border-collapse: collapse; font-size: 8pt; margin: 0.6em auto }
th { border-bottom: 1px solid; text-align: left } td, th { padding: 0.1em 0.6em; vertical-align: top }
pre { font-size: 7.5pt; line-height: 1.2; break-inside: avoid } code { font-size: 0.88em }
svg { max-width: 100%; height: auto }
a { color: inherit; text-decoration: none }
"""


def _svg(name: str) -> str:
    """A plot as it stands in a page."""
    return re.sub(r"<\?xml.*?\?>|<!DOCTYPE.*?>|<!--.*?-->", "", (PAPER.parent / name).read_text(), flags=re.DOTALL)


def html(text: str) -> str:
    """The page of a Markdown text, without its comments, plots within it."""
    from markdown_it import MarkdownIt

    body = MarkdownIt("commonmark").enable("table").render(_COMMENT.sub("", text))
    body = _PLOT.sub(lambda match: _svg(match[1]), body)
    return f"<!doctype html><html lang='en'><meta charset='utf-8'><style>{_STYLE}</style><body>{body}</body></html>"


def main(arguments: list[str]) -> int:
    """Write the PDF."""
    from playwright.sync_api import sync_playwright

    target = Path(arguments[0]) if arguments else BUILT
    target.parent.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page()
        page.set_content(html(PAPER.read_text()))
        page.pdf(path=str(target), prefer_css_page_size=True)
        browser.close()
    print(target)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
