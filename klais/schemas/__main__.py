"""``python -m klais.schemas docs`` writes every schema into a folder; a test compares the committed files."""

import sys
from pathlib import Path

from klais.schemas.files import FILES, text_of

if __name__ == "__main__":
    for name in FILES:
        (Path(sys.argv[1]) / name).write_text(text_of(name))
