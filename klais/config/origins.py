"""Origins of values, for messages and ``klais config show``."""

from typing import Any, Literal, NamedTuple

from klais.config.fields import variable

Source = Literal["flag", "env", "env_file", "profile", "file", "default"]


class Given(NamedTuple):
    """One value before it is checked.

    Attributes
    ----------
    value : Any
        Text of the environment, or a value of a TOML file.
    source : str
        The place that set it.
    place : str
        File and line, as ``klais.toml:7``; empty for flags and the environment.
    key : str
        Name of the value in that place: ``[kafka] port``; empty = the name of the variable.
    """

    value: Any
    source: Source
    place: str = ""
    key: str = ""

    def label(self, name: str) -> str:
        """Name of the setting in messages: ``KLAIS_KAFKA_PORT``, or ``klais.toml:7: [kafka] port``."""
        key = self.key or variable(name)
        return f"{self.place}: {key}" if self.place else key
