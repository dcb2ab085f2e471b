"""The manual pages: one for each command, every setting and word, and troff finds nothing to complain about."""

import re
import shutil
import subprocess
from pathlib import Path

from klais.cli.main import COMMANDS
from klais.cli.man import GLOSSARY, pages
from klais.config.tables import NAMES
from tests.support.needs import need_missing

PAGES = pages()


def test_every_command_setting_and_word_has_its_place() -> None:
    assert {f"man1/klais-{name}.1" for name in COMMANDS} | {"man1/klais.1"} == {n for n in PAGES if "man1" in n}
    keys = re.findall(r"^\\fB(\w+)\\fR$", PAGES["man5/klais.toml.5"], re.MULTILINE)
    secrets = {"token", "read_token", "sasl_password", "ssl_keyfile_password", "sequence_key"}
    assert set(keys) == {key for _, key in NAMES} - secrets
    words = re.findall(r"^\*\*(.+?)\*\*", GLOSSARY.read_text(), re.MULTILINE)
    assert len(words) > 30 and PAGES["man7/klais.7"].count(".TP") == len(words)


def test_text_is_text() -> None:
    """Nothing of a help text is taken for a request of troff, and dashes can be copied."""
    page = PAGES["man1/klais-xdp.1"]
    assert "\b" not in page and "\\-\\-for" in page and not re.search(r"(?<!\\)--", page)
    requests = {line.split()[0] for text in PAGES.values() for line in text.splitlines() if line.startswith((".", "'"))}
    assert requests == {".TH", ".SH", ".PP", ".TP", ".nf", ".fi", ".ad", ".nh"}


def test_troff_has_no_warnings(tmp_path: Path) -> None:
    groff = shutil.which("groff")
    if groff is None:
        need_missing("man", "there is no groff")
    for name, text in PAGES.items():
        (tmp_path / Path(name).name).write_text(text, encoding="utf-8")
    files = sorted(str(path) for path in tmp_path.iterdir())
    command = [groff, "-man", "-ww", "-z", "-Kutf8", "-Tutf8", "-rLL=78n"]
    ran = subprocess.run([*command, *files], capture_output=True, text=True, check=True)
    assert ran.stderr == ""
