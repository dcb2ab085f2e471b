"""The pages for people are true: files, functions, settings, commands, metrics and links that they name exist."""

import ast
import re
import socket
from functools import cache
from pathlib import Path

import pytest

from klais.cli.main import COMMANDS
from klais.config.layers import ENV_EXTRA
from klais.config.load import Settings
from klais.config.settings import LANDING_MS, linger_of
from klais.control import cuts, decide, forecast, offenders
from klais.control.incidents import MUTED
from klais.control.setpoints import DEVICE, GLOBAL, OVERRIDE
from klais.control.source_blocks import SOURCE
from klais.core.devices.layout import ROW
from klais.core.wire.constants import Reason, encode_frame
from klais.edge import linger
from klais.edge.number import SCOPE as CLAIM
from klais.kafka.topics import Topics
from klais.telemetry.landing import MAX_LATE_SHARE, OVER_S
from klais.telemetry.metrics import EdgeMetrics, WorkerMetrics
from klais.telemetry.snapshots import EdgeSnapshot, WorkerSnapshot

REPO = Path(__file__).parents[2]
ROOT_PAGES = [REPO / name for name in ("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md")]
FOLDERS = ("agents", "bench", "bpf", "deploy", "docs", "klais", "tests")
PAGES = [*ROOT_PAGES, *(page for folder in FOLDERS for page in sorted((REPO / folder).rglob("*.md")))]
# Words and phrases that no page uses: archaic, or passive without anybody who acts.
BANNED = (
    "anew",
    "for ever",
    "shall",
    "is told",
    "are told",
    "is waited for",
    "is looked for",
    "told of",
    "mend",
    "mended",
)
BANNED += ("see to", "at rest", "lab diary")
WIDTH = 120
ARCHITECTURE = REPO / "docs" / "architecture.md"
NAMES = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(REPO)))


@cache
def definitions(path: str) -> frozenset[str]:
    """Functions, methods and classes of a file."""
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    return frozenset(node.name for node in ast.walk(ast.parse((REPO / path).read_text())) if isinstance(node, kinds))


def code_of(page: Path) -> list[str]:
    """Everything in backquotes outside of code blocks."""
    return re.findall(r"`([^`\n]+)`", re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL))


@NAMES
def test_every_file_that_is_named_exists(page: Path) -> None:
    named = [code for code in code_of(page) if re.fullmatch(r"[\w./-]+\.(py|md|sh|yml|toml)", code) and "/" in code]
    assert [code for code in named if not (REPO / code).exists() and not (page.parent / code).exists()] == []


def test_every_function_of_the_architecture_page_is_in_the_file_named_with_it() -> None:
    code = code_of(ARCHITECTURE)
    files = [name for name in dict.fromkeys(code) if name.endswith(".py") and (REPO / name).is_file()]
    everything = frozenset().union(*(definitions(name) for name in files))
    named = [name for name in code if re.fullmatch(r"_?[a-z][a-z0-9_]*|[A-Z][a-z]+[A-Za-z]*", name)]
    words = {reason.label for reason in Reason} | {"agents", "devices", "recvmmsg", "iot_telemetry", "klais_raw"}
    words |= {f"klais_{topic}" for topic in ("journal", "anomalies", "dead_letter", "control", "stats")} | {
        "read_committed"
    }
    assert len(named) > 40
    assert [name for name in named if name not in everything and name not in words] == []


@pytest.mark.parametrize(
    ("function", "file"),
    re.findall(r"`(\w+)` (?:in |of `\w+` in |\()`(\w[\w/]*\.py)`", re.sub(r"\s+", " ", ARCHITECTURE.read_text())),
)
def test_a_function_that_is_named_with_its_file_is_there(function: str, file: str) -> None:
    assert function in definitions(file)


def test_a_batch_crosses_few_files_of_the_worker() -> None:
    """The table of the walk: every file in the order of the calls, from the agent to the send of the clean records."""
    table = re.search(r"\| file \| function \|.*?\n\n", ARCHITECTURE.read_text(), re.DOTALL)
    assert table is not None
    rows = [line.split("|")[1:3] for line in table[0].splitlines()[2:] if line]
    walk = {file.strip(" `"): re.findall(r"`(\w+)`", functions) for file, functions in rows}
    assert next(iter(walk)) == "agents/ingest.py"
    assert [*walk][-1] == "klais/worker/outputs.py"
    assert len(walk) == len(rows) <= 6
    assert [name for file, names in walk.items() for name in names if name not in definitions(file)] == []


@NAMES
def test_every_link_leads_somewhere(page: Path) -> None:
    links = [link for link in re.findall(r"\]\(([^)#]+)", page.read_text()) if not link.startswith("http")]
    assert [link for link in links if not (page.parent / link).exists()] == []


@NAMES
def test_every_setting_is_one(page: Path) -> None:
    known = {f"KLAIS_{name.upper()}" for name in Settings.model_fields} | set(ENV_EXTRA) | {"KLAIS_NAME"}
    named = set(re.findall(r"KLAIS_[A-Z0-9_]+", page.read_text()))
    odd = {name for name in named - known if not name.startswith("KLAIS_TEST_") and not name.endswith("_")}
    assert odd == set()


@NAMES
def test_every_command_is_one(page: Path) -> None:
    named = set(re.findall(r"(?:^|`|\$ |/)klais ([a-z]+(?:-[a-z]+)*)", page.read_text(), re.MULTILINE))
    assert named - set(COMMANDS) == set()


@NAMES
def test_every_metric_is_one(page: Path) -> None:
    text = (EdgeMetrics(EdgeSnapshot).render()[0] + WorkerMetrics(WorkerSnapshot).render()[0]).decode()
    known = {line.split()[2] for line in text.splitlines() if line.startswith("# TYPE")} | {"klais_lag_records"}
    known |= {spec.name for spec in Topics.of(Settings()).specs()}
    named = {code.split("{")[0] for code in code_of(page) if re.match(r"klais_[a-z_]+(\{|$)", code)}
    assert named - known == set()


def test_the_operations_page_explains_every_reason() -> None:
    page = (REPO / "docs" / "operations.md").read_text()
    assert [reason.label for reason in Reason if f"`{reason.label}`" not in page] == []


def prose_of(page: Path) -> str:
    """The page without code blocks."""
    return re.sub(r"```.*?```", lambda block: "\n" * block[0].count("\n"), page.read_text(), flags=re.DOTALL)


@pytest.mark.parametrize("page", ["operations.md", "protocol.md"])
def test_the_table_of_topics_has_every_topic(page: str) -> None:
    rows = [line.split("|")[1] for line in (REPO / "docs" / page).read_text().splitlines() if line.startswith("| `")]
    named = {name for row in rows for name in re.findall(r"`([\w-]+)`", row)}
    assert {spec.name for spec in Topics.of(Settings()).specs()} - named == set()


def test_the_table_of_scopes_has_every_scope_of_klais_control() -> None:
    text = (REPO / "docs" / "protocol.md").read_text()
    scopes = {
        GLOBAL,
        OVERRIDE,
        f"{DEVICE}<device_id>",
        f"{SOURCE}<prefix>",
        f"{CLAIM}<name>",
        *(f"mute/{kind}/" for kind in MUTED),
    }
    assert [scope for scope in scopes if f"`{scope}" not in text] == []


@NAMES
def test_lines_fit_the_width(page: Path) -> None:
    """Tables are exempt: Markdown cannot split a cell."""
    lines = enumerate(prose_of(page).splitlines(), 1)
    assert [number for number, line in lines if len(line) > WIDTH and not line.lstrip().startswith("|")] == []


@NAMES
def test_no_page_uses_a_banned_phrase(page: Path) -> None:
    text = " ".join(prose_of(page).lower().split())
    assert [phrase for phrase in BANNED if re.search(rf"\b{phrase}\b", text)] == []


@pytest.mark.parametrize("package", ["agents", "deploy", "klais"])
def test_no_text_in_code_uses_a_banned_phrase(package: str) -> None:
    """Docstrings, messages, help texts and descriptions of metrics."""
    texts = [
        f"{path.relative_to(REPO)}: {' '.join(node.value.lower().split())}"
        for path in sorted((REPO / package).rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and " " in node.value
    ]
    assert len(texts) > 20
    phrases = re.compile(rf"\b({'|'.join(BANNED)})\b")
    assert [text[:200] for text in texts if phrases.search(text)] == []


def test_the_readme_is_short() -> None:
    assert len((REPO / "README.md").read_text().splitlines()) <= 120


def test_each_release_has_a_short_entry_in_the_changelog() -> None:
    entries = (REPO / "CHANGELOG.md").read_text().split("\n## ")[1:]
    assert [entry.splitlines()[0] for entry in entries if len(entry.splitlines()) > 30] == []
    assert entries


def test_every_decision_is_in_the_index_under_its_title() -> None:
    folder = REPO / "docs" / "adr"
    decisions = sorted(folder.glob("[0-9]*.md"))
    index = " ".join((folder / "README.md").read_text().split())
    titles = {page.name: page.read_text().splitlines()[0].removeprefix("# ") for page in decisions}
    assert [name for name, title in titles.items() if f"[{title}]({name})" not in index] == []
    assert [page.name for page in decisions if "\nStatus: " not in page.read_text()] == []
    assert [int(name[:4]) for name in titles] == [int(title.split(".")[0]) for title in titles.values()]
    assert [int(name[:4]) for name in titles] == [*range(1, len(titles) + 1)]


def percent(share: float) -> str:
    return f"{100 * share:.0f} %"


@pytest.mark.parametrize(
    ("page", "sentence"),
    [
        ("control.md", f"{decide.LAG_WEIGHT} x lag error + {decide.CPU_WEIGHT} x CPU error"),
        ("control.md", f"below {decide.HEADROOM} times the present throughput"),
        ("control.md", f"empties the queue within {decide.ADMIT_HORIZON_S:.0f} s"),
        (
            "control.md",
            f"moved by more than {percent(decide.RATE_DEADBAND)} ({percent(decide.SPARE_RATE_DEADBAND)} while",
        ),
        ("control.md", f"a host's rate that moved by more than {percent(decide.HOST_RATE_DEADBAND)}"),
        ("control.md", f"leads the backlog to two thirds of the limit within {decide.BACKLOG_RETURN_S} s"),
        ("control.md", f"The burst is at least {decide.MIN_BURST_S} s of the rate"),
        ("control.md", f"From {cuts.CUT_AT} on the controller cuts the rate by {percent(cuts.CUT)}"),
        ("control.md", f"above {cuts.ALERT_AT} by {percent(cuts.ALERT_CUT)}"),
        ("control.md", f"after {cuts.HOLD_S:.0f} s at least {cuts.BACK_OFF} below its threshold"),
        ("control.md", f"the mean rate of the next {forecast.HORIZON_S} s exceeds twice"),
        ("control.md", f"the median of the last {forecast.WINDOW_S} s"),
        ("control.md", f"lose {offenders.MANY_PER_S:.0f} frames/s or more"),
        ("control.md", f"in {offenders.OFTEN} of {offenders.WINDOW} seconds"),
        ("control.md", f"blocks them for {offenders.FIRST_S:.0f} s"),
        ("extending.md", f"float64 `[n <= {forecast.WINDOW_S}, {len(forecast.FEATURES)}]`"),
        ("extending.md", f"Below {forecast.MIN_FORECAST_ROWS} rows"),
        ("glossary.md", f"counters, newest flag; {ROW.itemsize} bytes"),
        ("adr/0005-store-device-rows-as-raw-structs.md", f"numpy structured record of {ROW.itemsize} bytes"),
        ("operations.md", f"more than {linger.BUSY} of a core"),
        ("operations.md", f"stretches the linger, up to {linger.STRETCHED_NS / 1e6:.0f} ms"),
        ("operations.md", f"at least {linger.RECORDS_NS / linger.PARTITIONS / 1e6:g} ms for each"),
        ("operations.md", f"The linger is the target less {LANDING_MS:.0f} ms"),
        ("operations.md", f"with the default, {linger_of(10.0):.0f} ms with a target of 10 ms"),
        ("operations.md", f"{linger_of(Settings().latency_ms):.0f} ms with the default"),
        (
            "operations.md",
            f"more than {percent(MAX_LATE_SHARE)} of the batches of the last {OVER_S:.0f} s landed later",
        ),
    ],
)
def test_a_number_that_a_page_copies_is_that_of_the_code(page: str, sentence: str) -> None:
    assert sentence in " ".join((REPO / "docs" / page).read_text().split())


def test_the_readmes_device_sends_a_good_frame(monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[bytes] = []

    class Recorder:
        def __init__(self, *_: object) -> None: ...

        def sendto(self, data: bytes, address: tuple[str, int]) -> None:
            assert address == ("127.0.0.1", 5000)
            sent.append(data)

    monkeypatch.setattr(socket, "socket", Recorder)
    (source,) = re.findall(r"```python\n(.*?)```", (REPO / "README.md").read_text(), re.DOTALL)
    exec(source, {})
    assert sent == [encode_frame("sensor-42", 1, b'{"temperature": 21.5}')]


def test_make_targets_that_are_named_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (REPO / "Makefile").read_text(), re.MULTILINE))
    for page in PAGES:
        code = "\n".join([*code_of(page), *re.findall(r"```.*?```", page.read_text(), flags=re.DOTALL)])
        assert set(re.findall(r"(?:^\s*|&& )make ([a-z-]+)", code, re.MULTILINE)) - targets == set(), page
