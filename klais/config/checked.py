"""Checks that stand in the annotation of a setting; pydantic runs them, and so does what does without it."""

from collections.abc import Callable
from typing import Any


class After:
    """A check of a value that has the setting's type; it may put another value in its place.

    Parameters
    ----------
    check : callable
        Raises ValueError with what is wrong.
    """

    def __init__(self, check: Callable[[Any], Any]) -> None:
        self.check = check

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> Any:
        from pydantic_core import core_schema

        return core_schema.no_info_after_validator_function(self.check, handler(source))


class Before:
    """The same before the type is looked at."""

    def __init__(self, check: Callable[[Any], Any]) -> None:
        self.check = check

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> Any:
        from pydantic_core import core_schema

        return core_schema.no_info_before_validator_function(self.check, handler(source))
