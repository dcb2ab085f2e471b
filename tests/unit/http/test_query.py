"""Parameters of requests: refused clearly, for work that grows with their number only."""

import pytest
from multidict import MultiDict

from klais.http.errors import HttpError
from klais.http.query import Query, read_query
from klais.worker.web.tap import LaneTapQuery


class Name(str):
    """A name that counts how often it is compared."""

    compared = 0
    __hash__ = str.__hash__

    def __eq__(self, other: object) -> bool:
        Name.compared += 1
        return str.__eq__(self, other)


def test_thousands_of_names_are_compared_a_few_times_each() -> None:
    """Each was compared with all others: 2,700 names fit into a request line, and took a tenth of a second."""
    given: dict[str, str] = {Name(f"n{number}"): "" for number in range(500)}
    Name.compared = 0
    with pytest.raises(HttpError, match="is not a parameter"):
        read_query(given, Query)
    assert Name.compared < 20 * len(given)


def test_a_parameter_that_is_given_twice_is_refused() -> None:
    with pytest.raises(HttpError, match="more than once"):
        read_query(MultiDict([("a", "1"), ("a", "1")]), Query)


def test_selections_of_a_tap_that_no_frame_has_are_refused() -> None:
    for given in ({"verdict": "queued", "reason": "duplicate"}, {"device_id": "dev-1", "prefix": "meter-"}):
        with pytest.raises(HttpError, match=r"has no reason|does not begin with meter-") as caught:
            read_query(given, LaneTapQuery)
        assert caught.value.status == 400
    fits = {"verdict": "dropped", "reason": "duplicate", "device_id": "dev-1", "prefix": "dev-"}
    assert read_query(fits, LaneTapQuery).prefix == "dev-"
