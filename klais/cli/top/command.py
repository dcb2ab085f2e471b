"""``klais top``: the live page in a terminal."""

import os
import signal
import sys
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

import click

from klais.cli.control import author
from klais.cli.output import TableWriter
from klais.cli.printing import say, say_json
from klais.cli.top.screen import Screen
from klais.cli.top.tabs import TABS
from klais.cli.views import URL, WorkerViews, lacks
from klais.errors import WorkerUnavailable

DRAW_S = 0.25
NAMES = [tab.name for tab in TABS]


@click.command()
@click.option("--once", is_flag=True, help="Print the present figures and exit.")
@click.option("-o", "--output", "form", type=click.Choice(["table", "json"]), help="Form of --once.  [default: table]")
@click.option("--json", "as_json", is_flag=True, help="The same as -o json.")
@click.option("--tab", type=click.Choice(NAMES), default="pipeline", show_default=True, help="The initial tab.")
@URL
def top(once: bool, form: str | None, as_json: bool, tab: str, url: str | None) -> None:
    """Watch the whole system: pipeline, processes, devices, drops.

    Keys: `1`-`4` or Tab select a tab, the arrows a row, `<` and `>` the sort column, `r` reverses the order, `/`
    filters, space pauses the figures, `b` blocks the selected device (it asks for the reason), `q` quits.

    \b
    Examples:
      klais top
      klais top --tab devices --url http://worker-2:6066
      klais top --once -o json | jq .pipeline
    """
    views, form = WorkerViews.of(url), "json" if as_json else form
    if once:
        _once(views, form or "table")
        return
    if form is not None:
        raise click.UsageError("-o needs --once")
    if not (sys.stdin.isatty() and sys.stdout.isatty()) or os.environ.get("TERM", "dumb") == "dumb":
        raise click.UsageError("this needs a terminal with cursor control: in scripts use --once -o json")
    _watch(views, Screen(tab=NAMES.index(tab)))


def _once(views: WorkerViews, form: str) -> None:
    event = next(iter(views.events()), None)
    if event is None:
        raise WorkerUnavailable(f"the worker at {views.url} stops: use another one with --url")
    whole: dict[str, Any] = {key: event.get(key) for key in ("at_ms", "status", "sentence", "problems")}
    pages = []
    for place, tab in enumerate(TABS):
        screen = Screen(tab=place)
        question = screen.question()
        page = views.get("/devices/", **question) if question else {"items": []}
        pages.append(page)
        whole[tab.name] = screen.rows(event, page["items"])
    if form == "json":
        say_json(whole)
    else:
        say(str(whole["sentence"]))
        for tab in TABS:
            say("", f"-- {tab.name}")
            TableWriter(tab.columns).write(whole[tab.name])
    if missing := lacks(pages):
        raise WorkerUnavailable(missing)


def _watch(views: WorkerViews, screen: Screen) -> None:
    from rich.console import Console
    from rich.live import Live

    from klais.cli.top.feed import Feed
    from klais.cli.top.keys import KeyReader
    from klais.cli.top.picture import picture

    views.get("/api/v1/about")  # report a wrong address or token before the screen changes
    console, feed, block = Console(highlight=False), Feed(views), _blocker(views)
    for number in (signal.SIGTERM, signal.SIGHUP):  # restore the terminal
        signal.signal(number, lambda *_: sys.exit(1))
    feed.start()
    seen = feed.newest()
    try:
        with (
            KeyReader(sys.stdin.fileno()) as keys,
            Live(console=console, screen=True, auto_refresh=False, vertical_overflow="crop") as live,
        ):
            while not screen.ended:
                feed.want(screen.question())
                if not screen.paused:
                    seen = feed.newest()
                event, devices, problem = seen
                rows = screen.rows(event, devices)
                width, height = console.size
                live.update(picture(screen, event, rows, problem, width, height), refresh=True)
                for key in keys.read(DRAW_S):
                    screen.press(key, rows, block)
    except KeyboardInterrupt:
        pass
    finally:
        feed.stop()


def _blocker(views: WorkerViews) -> Callable[[str, str], str]:
    def block(device_id: str, reason: str) -> str:
        try:
            views.put(f"/api/v1/devices/{quote(device_id, safe='')}/block", {"reason": reason, "author": author()[:64]})
        except WorkerUnavailable as error:
            return f"not blocked: {error}"
        return f"blocked {device_id}; undo with `klais devices unblock`"

    return block
