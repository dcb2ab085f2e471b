"""``klais stats``: the statistics of edge and workers, from the stats topic or from an edge's REST API."""

import time
from functools import partial
from typing import TYPE_CHECKING, Any

import click

from klais.cli.printing import say, say_json
from klais.cli.servers import Server, edge_of, token_fix
from klais.cli.settings import load
from klais.cli.waiting import notice_after
from klais.config.quick import load_quick
from klais.config.settings import SettingsFields
from klais.errors import EdgeUnavailable
from klais.system import small_json
from klais.system.connect import reason_of
from klais.text import quote

if TYPE_CHECKING:
    from klais.config.load import Settings

_BACKLOG = 500  # records; each sender writes about one a second, so this covers minutes of a small deployment
_REST_TIMEOUT_S = 5.0


@click.command()
@click.option("--rest", "use_rest", is_flag=True, help="Ask the edge at KLAIS_API_BIND instead of reading klais_stats.")
@click.option("--url", help="Ask the edge at this address, as in http://host:8080 (implies --rest).")
@click.option("--watch", is_flag=True, help="Again every second, until Ctrl-C.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object: sender -> its newest record and its age in s.")
def stats(use_rest: bool, url: str | None, watch: bool, as_json: bool) -> None:
    """Show what edge and workers count: rates, drops, queue, lag.

    Every process writes one record a second to klais_stats; this shows the newest of each sender with its age. An age
    of many seconds means that the process ended, or that Kafka does not accept its records.

    \b
    Examples:
      klais stats --watch
      klais stats --rest --json | jq .edge.dam
    """
    ask = partial(_from_edge, load_quick(), url) if use_rest or url else partial(from_topic, load())
    try:
        while True:
            found = ask()
            if as_json:
                say_json(found)
            else:
                say(*(_lines(found) if found else ["nothing in klais_stats yet: is an edge or a worker running?"]))
            if not watch:
                return
            time.sleep(1)
    except KeyboardInterrupt:
        return


def from_topic(settings: "Settings") -> dict[str, Any]:
    """The newest record of each sender on the stats topic, with its age."""
    from klais.cli.decode import decode
    from klais.cli.tail import TopicReader
    from klais.kafka.topics import Topics

    reader = TopicReader(settings, Topics.of(settings).stats)
    try:
        bounds = reader.bounds()
        starts = {p: max(low, high - _BACKLOG) for p, (low, high) in bounds.items()}
        newest = {}
        for record in reader.read(starts, {p: high for p, (_, high) in bounds.items()}):
            row = decode("stats", record)
            newest[row["key"] or "?"] = row
    finally:
        reader.close()
    now_ms = time.time() * 1000
    return {
        key: {"age_s": round(max(0.0, now_ms - (row["ts"] or now_ms)) / 1000, 1), "stats": row.get("value")}
        for key, row in sorted(newest.items())
    }


def _from_edge(settings: SettingsFields, url: str | None) -> dict[str, Any]:
    """The named edge or the local one; only the local one gets the token of the state folder."""
    from klais.http.tokens import token_to_read

    edge = edge_of(settings, url)
    return from_rest(edge, token_to_read(settings, edge.own))


def from_rest(edge: Server, token: str | None = None) -> dict[str, Any]:
    """An edge's own answer to ``GET /stats``.

    Raises
    ------
    EdgeUnavailable
        No answer, an answer that is not an edge's, or the edge requires another token.
    """
    from klais.http import client

    where = f"{edge.url} ({edge.origin})"
    try:
        with notice_after(f"no answer yet from the edge at {where}: waiting up to {_REST_TIMEOUT_S:g} s"):
            status, data = client.request(edge.url + "/stats", _REST_TIMEOUT_S, token=token)
    except (OSError, ValueError) as error:
        fix = "start one with `klais edge` or `klais up`, or name another one with --url"
        raise EdgeUnavailable(
            f"no edge answers at {where}: {reason_of(error, edge.url.startswith('https:'))}. To mend it, {fix}"
        ) from None
    try:
        body = small_json.loads(data)
    except ValueError:
        body = None
    reason = body.get("error") if isinstance(body, dict) else None
    if not isinstance(body, dict) or (status != 200 and reason is None):
        raise EdgeUnavailable(f"what answers at {where} is no KLAIS edge ({status}): name one with --url")
    if status != 200:
        raise EdgeUnavailable(f"the edge at {where} answers {status}: {reason}{token_fix(status)}")
    return {"edge": {"age_s": 0.0, "stats": body}}


def _lines(found: dict[str, Any]) -> list[str]:
    out = []
    for sender, entry in found.items():
        body = entry["stats"] if isinstance(entry["stats"], dict) else {"value": entry["stats"]}
        plain = {name: value for name, value in body.items() if not isinstance(value, dict)}
        out.append(" ".join([quote(sender), f"age={entry['age_s']:g}s", *_pairs(plain)]))
        nested = {name: value for name, value in body.items() if isinstance(value, dict)}
        out += ["    " + " ".join([f"{name}:", *_pairs(value)]) for name, value in nested.items()]
    return out


def _pairs(values: dict[str, Any]) -> list[str]:
    return [f"{name}={quote(value)}" for name, value in values.items() if value not in (None, {}, [])]
