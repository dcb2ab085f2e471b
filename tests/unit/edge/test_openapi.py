"""The server does what its OpenAPI document says: schemathesis generates good and bad requests and checks the
answers.
"""

from collections.abc import Iterator

import pytest
import schemathesis
from hypothesis import HealthCheck, settings

from klais.edge.api.openapi import DOCUMENT
from klais.edge.api.server import make_app
from tests.support.examples import examples
from tests.support.http import FakeState, make_guard, served

schema = schemathesis.openapi.from_dict(DOCUMENT)


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with served(make_app(FakeState(), make_guard(), min_rate=1)) as (url, _):
        yield url


@schema.parametrize()
@settings(
    max_examples=examples(30), deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck)
)
def test_answers_match_the_document(case: schemathesis.Case, url: str) -> None:
    case.call_and_validate(base_url=url)
