"""``klais topics``: the topics of KLAIS on the cluster."""

from collections.abc import Mapping
from dataclasses import asdict

import click

from klais.cli.groups import SuggestingGroup
from klais.cli.output import FORM, Column, writer
from klais.cli.printing import say, say_json, say_text
from klais.cli.settings import load
from klais.errors import TopicMismatch
from klais.kafka import admin
from klais.kafka.probe import need_kafka
from klais.kafka.rights import ROLES, Role, acl_commands
from klais.kafka.topics import Topics
from klais.system.durations import DURATION

_COLUMNS = ("name", "partitions", "replication", "records", "settings")
_SHOWN = ("cleanup.policy", "retention.ms", "max.message.bytes")


@click.group(cls=SuggestingGroup)
def topics() -> None:
    """Create, check or list the topics.

    The cluster is KLAIS_KAFKA_BOOTSTRAP, or the embedded broker. KLAIS_PARTITIONS (4) is the number of partitions of
    every topic that is split by device; all of them must have the same, because one worker lane owns the same partition
    of each. KLAIS_TOPIC_PREFIX separates several systems on one cluster.
    """


@topics.command()
@click.option("--fix", is_flag=True, help="Also set the required settings of topics that have other ones.")
@click.option("--wait", "wait_s", type=DURATION, default=0.0, help="Wait this long for a broker.  [default: 0s]")
@click.option("--json", "as_json", is_flag=True, help='One JSON object: {"created": [...], "kept": [...]}.')
def create(fix: bool, wait_s: float, as_json: bool) -> None:
    """Create the topics that are missing and check the others.

    Running it again is safe. A topic that exists with other settings or another partition count is refused and nothing
    is created; --fix sets the settings (never the partition count: that would move devices between lanes).

    \b
    Examples:
      klais topics create
      KLAIS_PARTITIONS=16 KLAIS_REPLICATION=3 klais topics create --wait 1m
    """
    settings = load()
    if not wait_s:
        need_kafka(settings)
    client = admin.wait_for_broker(settings, wait_s, lambda text: say_text(text, err=True))
    created = admin.ensure_topics(settings, client, fix=fix)
    kept = [spec.name for spec in Topics.of(settings).specs() if spec.name not in created]
    if as_json:
        say_json({"created": created, "kept": kept})
        return
    for name in created:
        say(f"created {name}")
    say(
        f"{len(created)} created, {len(kept)} existed and are right"
        + (" (settings set where they differed)" if fix else "")
    )


@topics.command()
@click.option("--json", "as_json", is_flag=True, help='One JSON object: {"ok": ..., "mismatches": [...]}.')
@click.pass_context
def check(ctx: click.Context, as_json: bool) -> None:
    """Check the topics without changing anything. Exit code 0 when all are right, 1 when not, with a fix for each."""
    settings = load()
    need_kafka(settings)
    wrong = admin.check_topics(settings, admin.wait_for_broker(settings, 0))
    if as_json:
        say_json({"ok": not wrong, "mismatches": [asdict(mismatch) for mismatch in wrong]})
        ctx.exit(1 if wrong else 0)
    if wrong:
        raise TopicMismatch("\n  ".join([f"{len(wrong)} mismatches:", *map(str, wrong)]))
    say(f"ok: {len(Topics.of(settings).specs())} topics on {settings.bootstrap} are right")


@topics.command("rights")
@click.option("--role", type=click.Choice(ROLES), multiple=True, help="Only of this role.  [default: all]")
@click.option("--principal", default="User:klais", show_default=True, help="Who gets them, as Kafka names it.")
def rights_(role: tuple[Role, ...], principal: str) -> None:
    """Print the access rights that each role needs, as kafka-acls commands.

    It does not connect to Kafka. `edge` and `worker` are the processes; `admin` is who runs `klais topics create`.

    \b
    Example:
      klais topics rights --role edge --principal User:edge-1
    """
    kind, _, who = principal.partition(":")
    if not (kind.isalpha() and who.strip() and principal.isprintable()):
        text = f"{principal!r} is no principal of Kafka: write its type and name, such as User:klais"
        raise click.BadParameter(text, param_hint="--principal")
    settings = load()
    for name in role or ROLES:
        say(f"# {name}", *acl_commands(settings, name, principal))


@topics.command("list")
@click.option("--all", "everything", is_flag=True, help="All topics of the cluster, not only those of KLAIS.")
@FORM
def list_(everything: bool, form: str) -> None:
    """List the topics with partitions, kept records (by their offsets) and main settings."""
    settings = load()
    need_kafka(settings)
    states = admin.list_topics(settings, everything, admin.wait_for_broker(settings, 0))
    if form == "json":
        say_json([asdict(state) for state in states])
        return
    if not states and form == "table":
        say(f"no topics of klais on {settings.bootstrap}: `klais topics create` creates them")
        return
    rows = [asdict(state) | {"settings": _settings_text(state.config)} for state in states]
    rows = rows if form != "jsonl" else [asdict(state) for state in states]
    writer(form, [Column(key) for key in _COLUMNS], _COLUMNS).write(rows)


def _settings_text(config: Mapping[str, str]) -> str:
    return " ".join(f"{name}={config[name]}" for name in _SHOWN if name in config)
