"""``klais kafka``: the embedded Apache Kafka on its own."""

from typing import TYPE_CHECKING

import click

from klais.broker import daemon, jars
from klais.cli.groups import SuggestingGroup
from klais.cli.printing import say, say_json, say_text
from klais.cli.settings import load

if TYPE_CHECKING:
    from klais.config.load import Settings

NOT_RUNNING = 3  # the exit code of systemd and init scripts for a service that is not running


def _say(text: str) -> None:
    say_text(text, err=True)


def _settings() -> "Settings":
    settings = load()
    if not settings.embedded_kafka:
        _say(
            f"note: KLAIS_KAFKA_BOOTSTRAP={settings.bootstrap} is set: other commands use that cluster, not this broker"
        )
    return settings


@click.group(cls=SuggestingGroup)
def kafka() -> None:
    """Start, stop or inspect the embedded Apache Kafka.

    A real Apache Kafka (one KRaft node, on loopback only). `klais up` starts one by itself; these commands are for a
    broker that keeps running while edge and worker stop and start. Its data survives restarts.

    \b
    KLAIS_KAFKA_PORT      its port (9092)
    KLAIS_KAFKA_HEAP_MB   heap of its Java (512)
    KLAIS_STATE_DIR       its data and logs lie in <this>/kafka (.klais)

    One process owns the broker. When that process ends, even by SIGKILL, the broker ends too.
    """


@kafka.command()
@click.option("--json", "as_json", is_flag=True, help="Print the status as one JSON object when it is ready.")
def start(as_json: bool) -> None:
    """Start the broker in the background and return when it answers.

    Does nothing when it already runs. Progress goes to stderr.

    \b
    Examples:
      klais kafka start
      KLAIS_STATE_DIR=/var/lib/klais KLAIS_KAFKA_PORT=9192 klais kafka start
    """
    state = daemon.start(_settings(), _say)
    if as_json:
        say_json(state.as_dict())
    else:
        say(f"Apache Kafka {state.version} is ready on {state.bootstrap} (pid {state.pid})")
        say("stop it with: klais kafka stop")


@kafka.command()
def stop() -> None:
    """Stop the broker that `klais kafka start` (or `run`) started, cleanly; its data stays."""
    say("Apache Kafka stopped" if daemon.stop(_settings()) else "Apache Kafka was not running")


@kafka.command()
@click.option("--json", "as_json", is_flag=True, help="One JSON object: running, ready, bootstrap, pid, owner, sizes.")
@click.pass_context
def status(ctx: click.Context, as_json: bool) -> None:
    """Show whether the broker runs, its address, owner and memory. Exit code 0 when it runs, 3 when not."""
    state = daemon.status(_settings())
    if as_json:
        say_json(state.as_dict())
    else:
        for name, value in _rows(state):
            say(f"{name:<10} {value}")
    ctx.exit(0 if state.running else NOT_RUNNING)


@kafka.command()
def run() -> None:
    """Run the broker in the foreground until Ctrl-C or SIGTERM. For service managers and containers."""
    daemon.run(_settings(), _say)


@kafka.command()
def fetch() -> None:
    """Fetch Apache Kafka's jars into the cache (43 MB, with Maven), so that a later start needs no network."""
    jars.find_java()
    folder = jars.fetch(load().cache_dir, _say)
    say(f"Apache Kafka {jars.kafka_version()}: {folder}")


def _rows(state: daemon.Status) -> list[tuple[str, str]]:
    word = ("ready" if state.ready else "starting") if state.running else "not running: `klais kafka start` starts it"
    rows = [("state", word), ("bootstrap", state.bootstrap)]
    if state.running:
        rows += [
            ("version", state.version or "?"),
            ("pid", str(state.pid)),
            ("owner", f"{state.owner} (pid {state.owner_pid})"),
        ]
        rows += [("memory", f"{(state.rss_bytes or 0) / 2**20:.0f} MiB")]
    return [*rows, ("data", f"{state.data_bytes / 2**20:.0f} MiB in {state.data_dir}"), ("log", state.log)]
