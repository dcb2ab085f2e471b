"""A secret setting: text that does not appear in ``repr``, logs or dumps."""

from typing import Any


class Secret:
    """Text that is masked wherever it is shown.

    Examples
    --------
    >>> Secret("hunter2"), Secret("a") == Secret("a"), Secret("hunter2").get_secret_value()
    (Secret('***'), True, 'hunter2')
    """

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    def get_secret_value(self) -> str:
        """The text."""
        return self._text

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and other._text == self._text

    def __hash__(self) -> int:
        return hash(self._text)

    def __repr__(self) -> str:
        return "Secret('***')"

    def __str__(self) -> str:
        return "***"

    @classmethod
    def __get_pydantic_core_schema__(cls, _source: Any, _handler: Any) -> Any:
        """Lets pydantic create one from text or from another secret; its JSON is masked."""
        from pydantic_core import core_schema

        text = core_schema.no_info_after_validator_function(cls, core_schema.str_schema())
        masked = core_schema.plain_serializer_function_ser_schema(str, when_used="json")
        return core_schema.union_schema(
            [core_schema.is_instance_schema(cls), text], mode="left_to_right", serialization=masked
        )
