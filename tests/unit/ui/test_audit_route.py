"""``/api/v1/audit`` while Kafka does not give the records: a reason, not a defect."""

from types import SimpleNamespace
from typing import Any, cast

import pytest
from multidict import MultiDict

from klais.errors import KafkaForbidden, KafkaUnavailable, KlaisError, TopicMismatch
from klais.http.errors import HttpError
from klais.ui.routes import audit


@pytest.mark.parametrize("kind", [KafkaForbidden, KafkaUnavailable, TopicMismatch])
async def test_no_changes_without_kafka(kind: type[KlaisError]) -> None:
    async def newest(_: int) -> Any:
        raise kind("why")

    answers = SimpleNamespace(get=lambda _, make: make())
    page = SimpleNamespace(audit=newest, answers=answers)
    with pytest.raises(HttpError, match="why") as raised:
        await audit(cast(Any, page), cast(Any, SimpleNamespace(query=MultiDict())))
    assert raised.value.status == 503
