"""The reference pages ``docs/settings.md`` and ``docs/metrics.md``, made from the code: ``python -m
klais.cli.reference``.

A test holds the committed pages against the text that is made here.
"""

import sys
from collections.abc import Callable, Iterable
from pathlib import Path

from klais.config.load import Settings, describe
from klais.telemetry.metrics import EdgeMetrics, WorkerMetrics
from klais.telemetry.snapshots import EdgeSnapshot, WorkerSnapshot

_GENERATED = "<!-- Made by `python -m klais.cli.reference docs`; do not edit. -->"


def settings_page() -> str:
    """``docs/settings.md``: every setting with its place in ``klais.toml``, default, range and meaning."""
    rows = [
        f"| `{row.name}` | {_code(row.key)} | {_code(row.default)} | {_cell(row.range)} | {_cell(row.description)} |"
        for row in describe(Settings(), {})
    ]
    return _page(
        "Settings",
        "A process reads its settings once, at the start: from environment variables, and from a table and key of "
        "`klais.toml`.\n`klais config show` prints the values in force and where each comes from, `klais config check` "
        "reports every problem\nat once, and a name that does not exist is refused. "
        "[operations.md](operations.md#settings) says which settings to think\nabout, and how the file is found.",
        ["| setting | in klais.toml | default | range | meaning |", "|---|---|---|---|---|", *rows],
    )


def metrics_page() -> str:
    """``docs/metrics.md``: every metric of edge and worker with type, labels and meaning."""
    edge, worker = (_families(make) for make in (_edge, _worker))
    rows = [
        f"| `{name}` | {kind} | {', '.join(f'`{label}`' for label in sorted(labels))} | {where} | {_cell(text)} |"
        for name in sorted(edge | worker)
        for kind, _, text in [(edge | worker)[name]]
        for labels in [{label for has in (edge, worker) if name in has for label in has[name][1]}]
        for where in [" and ".join(who for who, has in (("edge", edge), ("worker", worker)) if name in has)]
    ]
    return _page(
        "Metrics",
        "Edge (`GET :8080/metrics`) and worker (`GET :6066/metrics`) speak the Prometheus text format. Labels come "
        "from\nclosed sets; a device id is never a label. [operations.md](operations.md#metrics) says which ones to "
        "alert on.",
        ["| metric | type | labels | process | meaning |", "|---|---|---|---|---|", *rows],
    )


PAGES: dict[str, Callable[[], str]] = {"settings.md": settings_page, "metrics.md": metrics_page}


# Families that have one sample for each partition, verdict or kind need one to show their labels.
def _edge() -> EdgeMetrics:
    one = {"pass": 0}
    return EdgeMetrics(
        lambda: EdgeSnapshot(
            xdp_packets=one,
            xdp_bytes=one,
            set_points_age_s=0.0,
            limits_by="load",
            stats_age_s={"edge": 0.0},
            auth_frames={("ok", "0"): 0},
        )
    )


def _worker() -> WorkerMetrics:
    return WorkerMetrics(lambda: WorkerSnapshot(lag_records={0: 0}, lag_s={0: 0.0}, lane_live={0: True}))


def _families(make: Callable[[], EdgeMetrics | WorkerMetrics]) -> dict[str, tuple[str, set[str], str]]:
    out = {}
    for family in make().registry.collect():
        if family.name.startswith("process_"):
            continue
        suffix = {"counter": "_total", "info": "_info"}.get(family.type, "")
        labels = {label for sample in family.samples for label in sample.labels if label != "le"}
        out[family.name + suffix] = (family.type, labels, family.documentation)
    return out


def metric_labels() -> dict[str, frozenset[str]]:
    """Labels of every metric that docs/metrics.md lists, of both processes together."""
    out: dict[str, frozenset[str]] = {}
    for make in (_edge, _worker):
        for name, (_, labels, _) in _families(make).items():
            out[name] = out.get(name, frozenset()) | labels
    return out


def _page(title: str, intro: str, lines: Iterable[str]) -> str:
    return "\n".join([f"# {title}", "", _GENERATED, "", intro, "", *lines, ""])


def _code(text: str | None) -> str:
    return "" if text is None else f"`{text}`"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m klais.cli.reference FOLDER")
    for page, make in PAGES.items():
        (Path(sys.argv[1]) / page).write_text(make())
