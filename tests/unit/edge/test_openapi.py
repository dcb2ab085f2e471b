"""The server does what its OpenAPI document says: schemathesis generates good and bad requests and checks the answers."""

from collections.abc import Iterator

import pytest
import schemathesis
from hypothesis import HealthCheck, settings

from klais.edge.api.openapi import DOCUMENT
from klais.edge.api.server import ApiServer, RateLimit, make_app
from tests.unit.edge.test_api import FakeState

schema = schemathesis.openapi.from_dict(DOCUMENT)


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    server = ApiServer(make_app(FakeState(), None, RateLimit(per_s=1e9)), "127.0.0.1:0")
    server.start()
    yield f"http://127.0.0.1:{server.port}"
    server.stop()


@schema.parametrize()
@settings(max_examples=30, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
def test_answers_match_the_document(case: schemathesis.Case, url: str) -> None:
    case.call_and_validate(base_url=url)
