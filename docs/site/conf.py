"""The site that `make docs` builds from the pages of this repository, offline: Sphinx, MyST and the theme Furo.

The source folder is the repository, so that links between docs/, bench/ and the pages at the top stay as they are.
"""

from klais import __version__

project = "KLAIS"
author = "The KLAIS developers"
copyright = author
release = version = __version__
language = "en"

extensions = ["myst_parser"]
root_doc = "docs/site/index"
include_patterns = ["docs/**", "bench/*.md", "bench/notes/**", "klais/sim/data/README.md", "examples/**", "*.md"]
exclude_patterns = ["docs/images/**", "docs/site/_static/**"]
source_suffix = {".md": "markdown"}
myst_heading_anchors = 4
nitpicky = True
# Code blocks hold output, shells and pictures of bytes: no lexer is asked to guess what they are.
highlight_language = "text"

html_theme = "furo"
html_title = f"KLAIS {release}"
html_show_sphinx = False
html_show_copyright = False
html_copy_source = False
html_show_sourcelink = False
