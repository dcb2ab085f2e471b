"""``klais lag``: the lag of each group, its trend, and the time to catch up."""

import contextlib
import time
from collections import deque
from typing import Any

import click

from klais.cli.output import FORM, Column, Row, writer
from klais.cli.printing import say, say_json
from klais.cli.views import URL, WorkerViews
from klais.errors import WorkerUnavailable
from klais.system.durations import SOME_DURATION, format_duration

STEADY = 0.05  # share of the arriving records: smaller changes count as steady
OVER_S = 30.0
COMMITS_S = 10.0  # a lag below the arrivals of this time waits for the next commit, not for a consumer
KEYS = ("topic", "group", "lag", "lag_s", "in_per_s", "out_per_s", "trend", "clear_s")
COLUMNS = (
    Column("topic"),
    Column("group", width=16),
    Column("lag", "LAG, RECORDS"),
    Column("lag_s", "LAG, S"),
    Column("in_per_s", "IN/S"),
    Column("out_per_s", "OUT/S"),
    Column("trend", width=7),
    Column("clear", "TIME TO CLEAR"),
)
STAGING, LANES, LANES_HERE = "(staging)", "(lanes)", "(lanes here)"


@click.command()
@click.option("--watch", is_flag=True, help="Repeat until Ctrl-C.")
@click.option(
    "--interval", "interval_s", type=SOME_DURATION, default=2.0, show_default="2s", help="Time between two samples."
)
@FORM
@URL
def lag(watch: bool, interval_s: float, form: str, url: str | None) -> None:
    """Show the lag of each consumer group of each topic.

    A trend needs two samples, so this takes two if necessary. The lag in seconds is known for the lanes of all workers:
    `(lanes)` shows the records of the staging topic that they have not taken, and the age of the oldest one. The lag of
    a group counts from its newest commit, and lanes commit with each checkpoint, so it is rarely 0; a lag below the
    arrivals of 10 s counts as steady. `-o json` also has the lag of each partition. `(lanes here)` are those of the
    queried worker only, if it sends nothing about the others.

    \b
    Examples:
      klais lag --watch
      klais lag -o json | jq .lanes.lag_s
      klais lag -o json | jq '.groups[] | select(.trend == "grows")'
    """
    views, lag_rows = WorkerViews.of(url), LagRows()
    lines = writer(form, COLUMNS, KEYS) if form in ("csv", "jsonl") else None  # one heading, also with --watch
    told: list[str] = []
    with contextlib.suppress(KeyboardInterrupt):
        body = _asked(views)
        rows = lag_rows.rows(body, time.monotonic())
        if not watch and any(row["trend"] is None for row in rows):
            time.sleep(interval_s)
            body = _asked(views)
            rows = lag_rows.rows(body, time.monotonic())
        while True:
            if watch and form == "table":
                say("", time.strftime("%H:%M:%S"))
            if (silent := unreported(body)) != told:
                told = silent
                if silent:
                    names = ", ".join(silent)
                    say(f"klais: no worker reports the lag of lanes {names}: {LANES} does not include it", err=True)
            if lines is not None:
                lines.write(rows)
            else:
                _print(rows, body["lanes"], form)
            if not watch:
                return
            time.sleep(interval_s)
            body = _asked(views)
            rows = lag_rows.rows(body, time.monotonic())


def _asked(views: WorkerViews) -> dict[str, Any]:
    """The body of ``/topics/``, with the lanes of all workers from the page's stream."""
    body: dict[str, Any] = views.get("/topics/")
    with contextlib.suppress(WorkerUnavailable):  # this worker may have as many viewers as it takes
        body["lanes"] = lanes_of(next(views.events(), {})) or body["lanes"]
    return body


def lanes_of(event: dict[str, Any]) -> dict[str, Any]:
    """The lanes of all workers in an event of the stream, as ``lanes`` of ``/topics/``; empty without workers."""
    gauges = [worker.get("gauges", {}) for worker in event.get("workers", ())]
    records, ages = (
        {p: n for of in gauges for p, n in (of.get(name) or {}).items()} for name in ("lag_records", "lag_s")
    )
    return {"lag_records": records, "lag": int(sum(records.values())), "lag_s": ages, "of": LANES} if gauges else {}


def unreported(body: dict[str, Any]) -> list[str]:
    """Partitions whose lanes no worker reports, because it does not respond or none owns them."""
    lanes = body["lanes"]
    if lanes.get("of") != LANES:
        return []
    known = {str(p) for about in body["topics"].values() for p in about.get("end_offsets") or ()}
    return sorted(known - set(map(str, lanes["lag_records"])), key=int)


def _print(rows: list[Row], lanes: dict[str, Any], form: str) -> None:
    if form == "json":
        by_partition = {name: lanes.get(name, {}) for name in ("lag_records", "lag_s")}
        say_json({"groups": rows, "lanes": by_partition})
        return
    if rows:
        writer(form, COLUMNS, KEYS).write(row | {"clear": _clear_text(row)} for row in rows)
    else:
        say("no group reads a topic of KLAIS yet, and this worker has no lanes")


class LagRows:
    """Turns bodies of ``/topics/`` into rows; keeps the lags of the last 30 s for the trends.

    A group commits with its checkpoints, every few seconds, so its rate over one second is not meaningful.
    """

    def __init__(self) -> None:
        self._kept: deque[tuple[float, dict[tuple[str, str], int]]] = deque()

    def rows(self, body: dict[str, Any], now_s: float) -> list[Row]:
        """Rows for the lanes and for each group of each topic, as of ``now_s`` (monotonic)."""
        rows = [_lanes(body)] if body["lanes"]["lag_records"] else []
        for topic, about in body["topics"].items():
            for group, found in (about["groups"] or {}).items():
                rows.append(_row(topic, group, found["lag"], None, about["in_per_s"], found["out_per_s"]))
        while self._kept and now_s - self._kept[0][0] > OVER_S:
            self._kept.popleft()
        for row in rows:
            row |= _forecast(row, self._change(row, now_s))
        self._kept.append((now_s, {(row["topic"], row["group"]): row["lag"] for row in rows}))
        return rows

    def _change(self, row: Row, now_s: float) -> float | None:
        """Growth of the lag in records/s; None without an earlier sample."""
        key = row["topic"], row["group"]
        for at_s, lags in self._kept:
            if key in lags and now_s > at_s:
                return float((row["lag"] - lags[key]) / (now_s - at_s))
        if row["in_per_s"] is None or row["out_per_s"] is None:
            return None
        return float(row["in_per_s"] - row["out_per_s"])


def _lanes(body: dict[str, Any]) -> Row:
    lanes = body["lanes"]
    seconds = max(lanes.get("lag_s", {}).values(), default=None)
    return _row(STAGING, lanes.get("of", LANES_HERE), lanes["lag"], seconds, None, None)


def _row(topic: str, group: str, lag: int, lag_s: float | None, in_per_s: Any, out_per_s: Any) -> Row:
    return {
        "topic": topic,
        "group": group,
        "lag": lag,
        "lag_s": lag_s,
        "in_per_s": in_per_s,
        "out_per_s": out_per_s,
        "trend": None,
        "clear_s": None,
    }


def _forecast(row: Row, change: float | None) -> Row:
    """Trend, and seconds until the lag is 0; None if unknown or growing."""
    if row["lag"] == 0:
        return {"trend": "steady", "clear_s": 0.0}
    if row["lag"] <= COMMITS_S * (row["in_per_s"] or 0.0):
        return {"trend": "steady", "clear_s": None}
    if change is None:
        return {"trend": None, "clear_s": None}
    if abs(change) <= STEADY * max(row["in_per_s"] or 0.0, 1.0):
        return {"trend": "steady", "clear_s": None}
    return {"trend": "falls" if change < 0 else "grows", "clear_s": row["lag"] / -change if change < 0 else None}


def _clear_text(row: Row) -> str:
    if row["lag"] == 0:
        return "nothing waits"
    if row["clear_s"] is not None:
        return format_duration(row["clear_s"])
    if row["lag"] <= COMMITS_S * (row["in_per_s"] or 0.0):
        return "at the next commit"
    return {"grows": "never at this rate", "steady": "stays as it is"}.get(row["trend"], "-")
