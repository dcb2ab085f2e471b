"""The ``klais`` command: a table of its sub-commands, each imported only when it is called."""

import contextlib
import gc
import importlib
import os
from collections.abc import Iterator
from typing import Any

import click

from klais import __version__
from klais.cli.errors import plain_errors
from klais.cli.groups import SuggestingGroup
from klais.cli.streams import prepare_streams
from klais.system.private_files import restrict_umask

# name -> (module, attribute, short help shown without importing the module)
COMMANDS: dict[str, tuple[str, str, str]] = {
    "up": ("klais.cli.up.command", "up", "Start everything: Kafka, topics, edge, worker, simulated devices."),
    "edge": ("klais.cli.edge", "edge", "Receive frames over UDP and publish frame batches to the staging topic."),
    "worker": ("klais.cli.worker", "worker", "Run the Faust worker: admit, score and land clean records."),
    "kafka": ("klais.cli.kafka", "kafka", "Start, stop or inspect the embedded Apache Kafka."),
    "topics": ("klais.cli.topics", "topics", "Create, check or list the topics."),
    "simulate": ("klais.cli.simulate", "simulate", "Send frames of simulated devices."),
    "send": ("klais.cli.send", "send", "Send one frame."),
    "auth": ("klais.cli.auth", "auth", "Make keys of authenticated frames, and check frames."),
    "tail": ("klais.cli.tail", "tail", "Print records of a topic, decoded."),
    "tap": ("klais.cli.tap", "tap", "Show a live sample of frames with their verdicts."),
    "stats": ("klais.cli.stats", "stats", "Show the statistics of edge and workers."),
    "top": ("klais.cli.top.command", "top", "Watch the whole system in the terminal."),
    "lag": ("klais.cli.lag", "lag", "Show the lag of each group, and the time to catch up."),
    "ui": ("klais.cli.ui", "ui", "Show the live page from recorded figures, or record them."),
    "xdp": ("klais.cli.xdp.command", "xdp", "Load, control and watch the XDP filter in the kernel."),
    "control": ("klais.cli.control", "control", "Show the limits in force with their reasons, and override them."),
    "devices": ("klais.cli.devices", "devices", "Show devices; block, limit or forget single ones."),
    "sources": ("klais.cli.sources", "sources", "Block source addresses, and list the blocked ones."),
    "incidents": ("klais.cli.incidents", "incidents", "Show incidents, acknowledge them, mute known ones."),
    "replay": ("klais.cli.replay", "replay", "Replay a journal from step 0 and compare with the tables."),
    "redrive": ("klais.cli.redrive", "redrive", "Send dead letters back to klais_raw, once each."),
    "what-if": ("klais.cli.what_if", "what_if", "Show the effect of other settings on past frames."),
    "score": ("klais.cli.score", "score", "Score your own series and plot it."),
    "models": ("klais.cli.models", "models", "Train, evaluate, list and activate models."),
    "explain": ("klais.cli.explain", "explain", "Explain an incident in plain language."),
    "config": ("klais.cli.config", "config", "Show, write or check the configuration."),
    "profile": ("klais.cli.profile", "profile", "List the systems that you work with."),
    "validate": ("klais.cli.validate", "validate", "Check configuration, topics and machine together."),
    "plan": ("klais.cli.plan", "plan", "Size a system: partitions, edges, workers, brokers, disk."),
    "doctor": ("klais.cli.doctor.command", "doctor", "Check this machine and suggest fixes."),
    "warm": ("klais.cli.warm", "warm", "Compile the kernels into a library."),
    "completion": ("klais.cli.completion", "completion", "Print the script for completion in bash, zsh or fish."),
    "version": ("klais.cli.version", "version", "Print the versions of KLAIS and its libraries."),
}


# These write telemetry, state or executable code to disk: only for this user.
PRIVATE = ("up", "edge", "worker", "kafka", "topics", "replay", "xdp", "warm")


def _set_environ(ctx: click.Context, param: click.Parameter, value: str | None) -> None:
    """Set the variable of an option given before a command, so that child processes also use it, and the file of
    KLAIS_ENV_FILE does not override it."""
    if value is not None and param.name is not None:
        if (
            not value
        ):  # for example `--profile "$SYSTEM"` with SYSTEM unset: an empty KLAIS_PROFILE would mean no profile
            raise click.BadParameter("is empty", ctx, param)
        from klais.config.layers import GIVEN_OPTIONS

        name = "KLAIS_" + param.name.upper()
        os.environ[name] = value
        given = {*os.environ.get(GIVEN_OPTIONS, "").split(","), name} - {""}
        os.environ[GIVEN_OPTIONS] = ",".join(sorted(given))


def _common_options(hidden: bool) -> list[click.Option]:
    levels = click.Choice(["debug", "info", "warning", "error"])
    shared: dict[str, Any] = {"callback": _set_environ, "expose_value": False, "is_eager": True, "hidden": hidden}
    return [
        click.Option(["--config"], metavar="FILE", help="Read the settings from this file; none = no file.", **shared),
        click.Option(["--profile"], metavar="NAME", help="Use the system of this profile.", **shared),
        click.Option(
            ["--log-level"], type=levels, help="Minimum severity of logged messages (KLAIS_LOG_LEVEL).", **shared
        ),
        click.Option(["--log-format"], type=click.Choice(["text", "json"]), help="Format of log lines.", **shared),
    ]


def _add_common_options(command: click.Command) -> None:
    """Accept the options before a command also after it: on the command, or on all commands of a group at any depth.

    Only the help of ``klais`` lists them.
    """
    if isinstance(command, click.Group):
        for child in command.commands.values():
            _add_common_options(child)
        return
    own = {parameter.name for parameter in command.params}
    command.params += [option for option in _common_options(hidden=True) if option.name not in own]


@contextlib.contextmanager
def _uncollected() -> Iterator[None]:
    """Disable the garbage collector during imports: they create much and free nothing, and it takes 10 % of a start."""
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collects:
            gc.enable()


class LazyGroup(SuggestingGroup):
    """A click group that imports a command at its first use, so that no command imports numba without need."""

    def main(self, *args: Any, **kwargs: Any) -> Any:
        """Run the command; closed standard streams, and encodings without all characters, are no error."""
        prepare_streams()
        return super().main(*args, **kwargs)

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names, in the order of the table."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of that name."""
        if cmd_name not in COMMANDS:
            return None
        module, attribute, _ = COMMANDS[cmd_name]
        with _uncollected():
            command: click.Command = getattr(importlib.import_module(module), attribute)
        _add_common_options(command)
        return command

    @plain_errors
    def invoke(self, ctx: click.Context) -> Any:
        """Run the sub-command; expected errors become one line and an exit code."""
        return super().invoke(ctx)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the table of commands without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, _, text) in COMMANDS.items()])


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="klais")
def main() -> None:
    """KLAIS: IoT telemetry from UDP frames to Kafka records, exactly once.

    Settings come from klais.toml and from KLAIS_* environment variables, which take precedence. `klais config show`
    lists all of them with unit, range and source, `klais config init` writes a file.
    """
    context = click.get_current_context()
    if os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb":
        context.color = False
    if context.invoked_subcommand in PRIVATE:
        restrict_umask()


main.params += _common_options(hidden=False)
