"""Numbers of edges that nobody wrote down: which claim holds, which numbers are free, what a pod's name says."""

import pytest

from klais.config.load import Settings, load
from klais.edge.number import END, FIRST, Claim, held, lowest_free, with_edge_id
from klais.errors import ConfigError


def test_of_two_claims_that_overlap_the_earlier_holds() -> None:
    claims = [Claim("a", FIRST, 2), Claim("b", FIRST + 1, 2)]
    assert held(claims, "a", 2) == FIRST
    assert held(claims, "b", 2) is None
    assert held(claims[::-1], "b", 2) == FIRST + 1


def test_a_claim_of_too_few_numbers_does_not_hold() -> None:
    assert held([Claim("a", FIRST, 2)], "a", 3) is None


def test_free_numbers_leave_out_those_of_others_and_may_be_ones_own() -> None:
    claims = [Claim("a", FIRST, 2), Claim("b", FIRST + 3, 1)]
    assert lowest_free(claims, "c", 1) == FIRST + 2
    assert lowest_free(claims, "c", 2) == FIRST + 4
    assert lowest_free(claims, "a", 3) == FIRST
    assert lowest_free([Claim("a", FIRST, END - FIRST)], "c", 1) is None


def test_a_stateful_sets_pod_takes_the_number_of_its_name() -> None:
    given = {"KLAIS_EDGE_ID_FROM": "name", "KLAIS_EDGE_NAME": "klais-edge-7", "KLAIS_PARTITIONS": "8"}
    found = with_edge_id(load(given))
    assert (found.edge_id, found.edge_id_from, found.partitions) == (7, "number", 8)
    assert with_edge_id(load(given | {"KLAIS_EDGE_WORKERS": "3"})).edge_id == 21, "each edge has three numbers"


@pytest.mark.parametrize("name", [None, "klais-edge", "klais-edge-", "klais-edge-²"])
def test_a_name_without_a_number_is_an_error_that_says_so(name: str | None) -> None:
    with pytest.raises(ConfigError, match="KLAIS_EDGE_NAME"):
        # A name with such characters never passes the settings; `model_construct` shows that the reader does not care.
        with_edge_id(Settings.model_construct(edge_name=name, edge_id_from="name"))


def test_a_number_that_was_written_down_stays() -> None:
    settings = Settings(edge_id=5)
    assert with_edge_id(settings) is settings
