"""Expected errors of a command: one line for people on stderr, and an exit code for scripts."""

import functools
import os
import sys
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from klais.cli.printing import say_text
from klais.errors import ConfigError, KlaisError

EXIT_ERROR = 1
EXIT_CONFIG = 2

P = ParamSpec("P")
R = TypeVar("R")


def plain_errors(function: Callable[P, R]) -> Callable[P, R]:
    """Turn a :class:`KlaisError` into its message and exit code 1 (2 for the configuration), without a traceback.

    A reader that goes away (``klais tail x | head``) ends the command quietly. Anything else is a defect and keeps its
    traceback.
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
            say_text(f"klais: not UTF-8, which text has to be: {error.object!r:.80}", err=True)
            raise SystemExit(EXIT_CONFIG) from None
        except BrokenPipeError:
            # Python flushes stdout once more at exit: give it somewhere to go.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise SystemExit(EXIT_ERROR) from None

    return wrapped


def config_message(error: ConfigError) -> str:
    """The problems of a configuration, one a line, indented below a count."""
    lines = str(error).splitlines()
    if len(lines) <= 1:
        return f"klais: {error}"
    return "\n  ".join([f"klais: {len(lines)} problems in the configuration:", *lines])
