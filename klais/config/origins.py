"""Where a value comes from, for messages and for ``klais config show``."""

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
        Which of the places gave it.
    place : str
        File and line, as ``klais.toml:7``; empty for flags and the environment.
    key : str
        What the value is called there: ``[kafka] port``; empty = the name of the variable.
    """

    value: Any
    source: Source
    place: str = ""
    key: str = ""

    def label(self, name: str) -> str:
        """What a message calls the setting: ``KLAIS_KAFKA_PORT``, or ``klais.toml:7: [kafka] port``."""
        key = self.key or variable(name)
        return f"{self.place}: {key}" if self.place else key
