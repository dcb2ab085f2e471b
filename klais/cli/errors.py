"""Expected errors of a command: one line on stderr, and an exit code for scripts."""

import contextlib
import errno
import functools
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import ParamSpec, TypeVar

from klais.cli.printing import say_text
from klais.errors import ConfigError, KlaisError

EXIT_ERROR = 1
EXIT_CONFIG = 2
_UNWRITABLE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)

P = ParamSpec("P")
R = TypeVar("R")


def plain_errors(function: Callable[P, R]) -> Callable[P, R]:
    """Turn a :class:`KlaisError` into its message and exit code 1 (2 for the configuration), without a traceback.

    Errors of Kafka's client and files without permission are handled alike. A closed pipe (``klais tail x | head``)
    ends the command quietly. Any other exception is a defect and keeps its traceback.
    """

    @functools.wraps(function)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return function(*args, **kwargs)
        except ConfigError as error:
            say_text(config_message(error), err=True)
            raise SystemExit(EXIT_CONFIG) from None
        except KlaisError as error:
            say_text(f"klais: {error}", err=True)
            raise SystemExit(EXIT_ERROR) from None
        except UnicodeEncodeError as error:
            if error.reason != "surrogates not allowed":
                raise
            shown = os.fsencode(error.object)[:80] if isinstance(error.object, str) else error.object
            text = f"{shown!r} is not UTF-8 text, and device ids and all other text must be UTF-8"
            say_text(f"klais: {text}", err=True)
            raise SystemExit(EXIT_CONFIG) from None
        except PermissionError as error:
            if error.filename is None:
                raise
            say_text(f"klais: {_not_permitted(error)}", err=True)
            raise SystemExit(EXIT_ERROR) from None
        except BrokenPipeError:
            _drop_stdout()
            raise SystemExit(EXIT_ERROR) from None
        except OSError as error:
            if error.errno not in _UNWRITABLE or error.filename is not None:
                raise
            _drop_stdout()
            say_text(f"klais: the output cannot be written: {error.strerror}", err=True)
            raise SystemExit(EXIT_ERROR) from None
        except Exception as error:
            # An error of confluent_kafka, without importing it: a broker's refusal is not a defect of KLAIS.
            if type(error).__name__ != "KafkaException" or type(error).__module__ not in ("cimpl", "confluent_kafka"):
                raise
            say_text(f"klais: Kafka refuses the request or does not respond: {error.args[0]}", err=True)
            raise SystemExit(EXIT_ERROR) from None

    return wrapped


def _drop_stdout() -> None:
    """Python flushes stdout once more at exit: give it somewhere to go."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _not_permitted(error: PermissionError) -> str:
    """Message with the user, the path without permission, and the setting that names it."""
    from klais.config.load import load

    path = Path(os.fsdecode(error.filename)).absolute()
    fix = "run klais as the user that owns it"
    with contextlib.suppress(ConfigError):
        settings = load()
        for name in ("spool_dir", "models_dir", "cache_dir", "xdp_pin_dir", "state_dir"):
            folder = getattr(settings, name)
            if folder is not None and path.is_relative_to(folder.absolute()):
                fix = f"run klais as the user that owns {folder}, or set another folder ({settings.origin(name)})"
                break
    return f"uid {os.geteuid()} may not use {path}: {fix}"


def config_message(error: ConfigError) -> str:
    """The problems of a configuration, one per line, indented below their number."""
    lines = str(error).splitlines()
    if len(lines) <= 1:
        return f"klais: {error}"
    return "\n  ".join([f"klais: {len(lines)} problems in the configuration:", *lines])
