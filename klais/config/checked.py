"""Validators in the annotations of settings, for pydantic and for :mod:`klais.config.quick`."""

from collections.abc import Callable
from typing import Any


class After:
    """A validator that runs after the value has the setting's type; it may replace the value.

    Parameters
    ----------
    check : callable
        Returns the value; raises ValueError with the problem.
    """

    def __init__(self, check: Callable[[Any], Any]) -> None:
        self.check = check

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> Any:
        from pydantic_core import core_schema

        return core_schema.no_info_after_validator_function(self.check, handler(source))


class Before:
    """The same, before the type is checked."""

    def __init__(self, check: Callable[[Any], Any]) -> None:
        self.check = check

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> Any:
        from pydantic_core import core_schema

        return core_schema.no_info_before_validator_function(self.check, handler(source))
