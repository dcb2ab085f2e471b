"""Tables of the commands: as wide as the terminal, whole in a pipe."""

import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from klais.cli.output import Column, TableWriter

COLUMNS = [Column("device"), Column("state"), Column("received"), Column("last_seen", "LAST SEEN")]
ROWS = [
    {"device": "press-00001", "state": "ok", "received": 1_234_567, "last_seen": "2026-11-30T12:00:00Z"},
    {"device": "press-00002", "state": "limited", "received": 7, "last_seen": None},
]


@pytest.mark.parametrize("width", [1, 11, 12, 20, 29, 30, 40, 51, 52, 80])
def test_no_line_is_longer_than_the_terminal(width: int, capsys: pytest.CaptureFixture[str]) -> None:
    TableWriter(COLUMNS, width).write(ROWS)
    out, note = capsys.readouterr()
    head, *lines = out.splitlines()
    shown = [column.title for column in COLUMNS if column.title in head]
    assert len(lines) == len(ROWS)
    assert len(shown) == 1 or max(map(len, [head, *lines])) <= width
    omitted = [column.title for column in COLUMNS if column.title not in shown]
    assert (", ".join(omitted) in note) if omitted else not note  # what is missing is named
    assert omitted == [column.title for column in COLUMNS][len(shown) :]


def test_a_pipe_gets_all_columns(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "20")
    TableWriter(COLUMNS).write(ROWS)
    out, note = capsys.readouterr()
    assert "2026-11-30T12:00:00Z" in out and not note


def test_later_rows_keep_the_columns_of_the_first_ones(capsys: pytest.CaptureFixture[str]) -> None:
    table = TableWriter(COLUMNS, 24)
    table.write(ROWS[:1])
    table.write(ROWS[1:])
    out, note = capsys.readouterr()
    assert [line.split() for line in out.splitlines()] == [
        ["DEVICE", "STATE"],
        ["press-00001", "ok"],
        ["press-00002", "limited"],
    ]
    assert note.count("columns omitted") == 1


def test_a_real_terminal_of_40_columns(tmp_path: Path) -> None:
    script = tmp_path / "table.py"
    script.write_text(
        "from klais.cli.output import Column, TableWriter\n"
        "TableWriter([Column('a', width=30), Column('b', width=30)]).write([{'a': 1, 'b': 2}])\n"
    )
    main, side = pty.openpty()
    environment = {**os.environ, "COLUMNS": "40"}
    with subprocess.Popen(
        [sys.executable, str(script)], stdout=side, stderr=subprocess.PIPE, env=environment, text=True
    ) as process:
        os.close(side)
        _, note = process.communicate(timeout=120)
    try:
        shown = os.read(main, 10_000).decode()
    finally:
        os.close(main)
    assert max(len(line) for line in shown.splitlines()) <= 40
    assert "omitted in a terminal of 40 characters: B" in note
