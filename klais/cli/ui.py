"""``klais ui``: the live page from recorded figures."""

import asyncio
import contextlib
from pathlib import Path

import click

from klais.cli.groups import SuggestingGroup
from klais.cli.options import OUTPUT_FILE
from klais.cli.printing import say
from klais.cli.servers import worker_of
from klais.cli.settings import load
from klais.cli.views import URL
from klais.errors import KlaisError
from klais.system.address import split_address, url_of
from klais.system.durations import DURATION

_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


@click.group(cls=SuggestingGroup)
def ui() -> None:
    """Show the live page from recorded figures, or record them.

    Every worker serves the page at its web address, by default http://127.0.0.1:6066/ui/. `demo` needs no Kafka.

    \b
    Examples:
      klais ui demo
      klais ui record incident.json.gz --for 2m
      klais ui demo incident.json.gz --bind 127.0.0.1:8000
    """


@ui.command()
@click.argument("recording", required=False, type=_FILE)
@click.option("--bind", default="127.0.0.1:6067", show_default=True, metavar="HOST:PORT", help="Address to listen on.")
@click.option("--for", "for_s", type=DURATION, default=None, help="End after this.  [default: Ctrl-C]")
def demo(recording: Path | None, bind: str, for_s: float | None) -> None:
    """Serve the page from a RECORDING, by default the one in the package.

    On other addresses than loopback, reading needs a token, as at a worker.
    """
    from klais.http.access import Access
    from klais.http.connections import ConnectionLimits
    from klais.http.guard import Guard
    from klais.system.ports import check_port
    from klais.ui.demo import demo_server
    from klais.ui.recording import load as load_recording
    from klais.ui.recording import load_demo

    try:
        host, port = split_address(bind)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="'--bind'") from None
    settings = load()
    access = Access.of(settings, host, changes=False)
    shown = load_demo() if recording is None else load_recording(recording)
    check_port(host, port, "tcp", "--bind")
    server = demo_server(shown, host, port, Guard.of(settings, host, access), ConnectionLimits.of(settings))

    async def run() -> None:
        chosen = await server.start()
        say(f"page: {url_of(host, chosen)}/ui/ (recorded figures; Ctrl-C ends it)")
        try:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(asyncio.Event().wait(), for_s)
        finally:
            await server.stop()

    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(run())


@ui.command("record")
@click.argument("target", type=OUTPUT_FILE)
@URL
@click.option("--for", "for_s", type=DURATION, default=60.0, show_default="1m", help="How long.")
def record_(target: Path, url: str | None, for_s: float) -> None:
    """Record the page of a worker to TARGET (.json.gz), which only you can read.

    The recording contains device ids, figures and names of operators: check it before you share it.
    """
    from klais.http.tokens import token_to_read
    from klais.system.private_files import write_own
    from klais.ui.recording import record

    settings = load()
    worker = worker_of(settings, url)
    say(f"recording {worker.url} for {for_s:g} s")
    data = record(worker.url, for_s, token_to_read(settings, worker.own))
    try:
        write_own(target, data)
    except OSError as error:
        raise KlaisError(f"{target} cannot be written: {error.strerror}") from None
    say(f"{target}: {len(data):,} bytes; show it with `klais ui demo {target}`")
