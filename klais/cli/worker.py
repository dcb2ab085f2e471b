"""``klais worker``: executes ``faust -A agents.app worker`` with the settings, without importing Faust."""

import os
import shlex
import sys
from pathlib import Path

import click

from klais.cli.printing import say, say_json
from klais.config.load import Settings, child_environ, environ_of, load
from klais.errors import SetupMissing
from klais.system.ports import check_port
from klais.system.private_files import named_folder, not_ours, own_folder
from klais.system.processes import python_module

_FAUST_LEVEL = {"debug": "DEBUG", "info": "INFO", "warning": "WARN", "error": "ERROR"}


def worker_command(settings: Settings) -> list[str]:
    """The command line of one worker; Faust's data folder is in the state folder."""
    return python_module(
        "faust",
        "-A",
        "agents.app",
        "--datadir",
        str(data_dir(settings)),
        "-l",
        _FAUST_LEVEL[settings.log_level],
        "worker",
        "--web-port",
        str(settings.web_port),
        "--web-bind",
        settings.web_bind,
    )


def worker_environ(settings: Settings) -> dict[str, str]:
    """The environment of a worker: that of this process with every setting that differs from its default, except those
    from the files of settings, which it reads itself at each SIGHUP."""
    return child_environ(settings, reads_files=True)


def leave_folder_of_others(settings: Settings) -> Settings:
    """Change to Faust's data folder if others can write to the working folder, from which Faust imports modules.

    Returns the settings with adjusted relative paths.
    """
    if not not_ours(os.stat(".")):
        return settings
    paths = {name: value.absolute() for name, value in settings if isinstance(value, Path)}
    os.chdir(data_dir(settings))
    return settings.model_copy(update=paths)


def data_dir(settings: Settings) -> Path:
    """Faust's data folder. It stays empty, because tables are in Kafka, so workers of one machine may share it."""
    return settings.state_dir.resolve() / "faust"


@click.command()
@click.option("--web-port", type=int, help="Port of the web views (KLAIS_WEB_PORT, 6066); each worker needs its own.")
@click.option("--web-bind", help="Host address of the web views (KLAIS_WEB_BIND, 127.0.0.1).")
@click.option("--worker-id", help="Name of this worker in stats and logs (KLAIS_WORKER_ID).")
@click.option("--dry-run", is_flag=True, help="Print the command and its settings without starting it.")
@click.option("--json", "as_json", is_flag=True, help="With --dry-run: one JSON object.")
def worker(web_port: int | None, web_bind: str | None, worker_id: str | None, dry_run: bool, as_json: bool) -> None:
    """Run one worker: it admits and scores the published frames and writes clean records.

    A worker owns a share of the partitions of klais_raw. Start more workers, here or on other machines, and Kafka
    rebalances the partitions. Each device is handled by one worker at a time. Stop one with Ctrl-C or SIGTERM: it
    finishes its decided steps and releases its partitions. Killing one loses nothing: another replays its journal.

    The process is replaced by `faust -A agents.app worker`, which you can also run directly.

    \b
    Examples:
      klais worker
      klais worker --web-port 6067 --worker-id second
      KLAIS_KAFKA_BOOTSTRAP=kafka1:9092,kafka2:9092 klais worker --log-format json
    """
    settings = load(web_port=web_port, web_bind=web_bind, worker_id=worker_id)
    command = worker_command(settings)
    if dry_run:
        shown = sorted(environ_of(settings) if not as_json else {})
        names = [f"{name}=..." for name in shown]
        if as_json:
            say_json({"command": command})
        else:
            say(shlex.join([*names, *command]))
        return
    try:
        named_folder(settings.state_dir, "KLAIS_STATE_DIR")
        own_folder(data_dir(settings))
    except OSError as error:
        raise SetupMissing(f"cannot make {data_dir(settings)}: {error.strerror}. Set KLAIS_STATE_DIR") from None
    check_port(settings.web_bind, settings.web_port, "tcp", "KLAIS_WEB_PORT", "KLAIS_WEB_BIND")
    settings = leave_folder_of_others(settings)
    sys.stdout.flush()
    os.execve(sys.executable, command, worker_environ(settings))
