"""Options that several commands share: texts that must not be empty, and files that they write."""

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from klais.cli.main import main
from klais.cli.options import OUTPUT_FILE, write_output
from klais.cli.views import WorkerViews
from klais.cli.waiting import Progress
from klais.errors import KlaisError

ROWS = "timestamp,value\n1,2\n2,3\n"


@pytest.mark.parametrize(
    "command",
    [
        "redrive --yes --device",
        "redrive --device",
        "tail telemetry --device",
        "tap --device",
        "tap --prefix",
        "incidents list --device",
        "incidents list --feature",
        "incidents mute --feature x --device",
        "incidents unmute --prefix",
    ],
)
def test_an_empty_selection_is_not_all(command: str) -> None:
    ran = CliRunner().invoke(main, [*command.split(), ""])
    assert ran.exit_code == 2 and "is empty: omit the option to select all" in ran.output


@pytest.mark.parametrize("command", ["redrive --device", "tap --device", "incidents mute --device"])
def test_an_id_that_no_device_has_is_refused(command: str) -> None:
    ran = CliRunner().invoke(main, [*command.split(), "x" * 17])
    assert ran.exit_code == 2 and "a device_id has 1 to 16 bytes" in " ".join(ran.output.split())


@pytest.mark.parametrize(
    "command",
    [
        "score a.csv --svg",
        "what-if --svg",
        "ui record --for 10m",
        "simulate --count 1 --manifest",
    ],
)
def test_a_folder_that_is_missing_is_told_before_the_work(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a.csv").write_text(ROWS)
    ran = CliRunner().invoke(main, [*command.split(), "missing/out"])
    assert ran.exit_code == 2 and "there is no folder 'missing'" in " ".join(ran.output.split()), ran.output


def test_a_plot_never_overwrites_its_data(tmp_path: Path) -> None:
    data = tmp_path / "a.svg"
    data.write_text(ROWS)
    ran = CliRunner().invoke(main, ["score", str(data)])
    assert ran.exit_code == 2 and "would overwrite" in ran.output
    assert data.read_text() == ROWS


def test_a_file_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(KlaisError, match=r"gone.svg cannot be written: No such file"):
        write_output(tmp_path / "missing" / "gone.svg", "")
    os.mkdir(tmp_path / "folder")
    with pytest.raises(Exception, match="is a directory"):
        OUTPUT_FILE.convert(str(tmp_path / "folder"), None, None)


def test_a_number_that_no_container_can_hold_is_refused() -> None:
    ran = CliRunner().invoke(main, ["tail", "raw", "-n", str(10**30)])
    assert ran.exit_code == 2 and "0<=x<=1000000000" in ran.output


@pytest.mark.parametrize("listed", ["devices", "incidents"])
def test_a_page_is_appended_without_a_copy_of_the_earlier_ones(listed: str, monkeypatch: pytest.MonkeyPatch) -> None:
    class Items(list[int]):
        def __radd__(self, other: object) -> list[int]:
            raise AssertionError("copies all earlier pages")

    def pages(*_: object, **__: object) -> Iterator[dict[str, object]]:
        for n in range(3):
            yield {"items": Items([n]), "next": n}

    monkeypatch.setattr(WorkerViews, listed, pages)
    ran = CliRunner().invoke(main, [listed, "list", "-n", "0", "-o", "json"])
    assert json.loads(ran.stdout) == {"items": [0, 1, 2], "next": 2}, ran.output


def test_progress_is_for_terminals(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("klais.cli.waiting.NOTICE_S", -1.0)
    Progress("records")(1, 2)
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    Progress("records", quiet=True)(1, 2)
    assert capsys.readouterr().err == ""
    Progress("records")(1_000, 2_000)
    assert capsys.readouterr().err == "klais: 1,000 of 2,000 records\n"


def test_csv_that_is_repeated_has_one_heading(monkeypatch: pytest.MonkeyPatch) -> None:
    left = [1, 1]

    def sleep(_seconds: float) -> None:
        if not left:
            raise KeyboardInterrupt
        left.pop()

    lanes = {"lag_records": {"0": 5}, "lag": 5, "lag_s": {"0": 1.0}}
    monkeypatch.setattr("klais.cli.lag._asked", lambda _: {"lanes": lanes, "topics": {}})
    monkeypatch.setattr("time.sleep", sleep)
    ran = CliRunner().invoke(main, ["lag", "--watch", "-o", "csv"])
    assert [line.partition(",")[0] for line in ran.stdout.splitlines()] == ["topic", *["(staging)"] * 3], ran.output
