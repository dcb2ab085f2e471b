"""What the leader writes about repeat offenders with each value of KLAIS_CONTROL_AUTO_BLOCK."""

import logging
from types import SimpleNamespace
from typing import Any

import orjson
import pytest

from klais.config.load import Settings
from klais.control.defence import Defence
from klais.control.forecast import NoPredictor
from klais.kafka.stats import StatsFollower
from klais.worker.term import Term


class Leader:
    """A term without Kafka: it keeps what it writes, and reads it only when told."""

    def __init__(self, how: str, attack: bool = False) -> None:
        settings = Settings(control_auto_block=how)
        self.term = Term(settings, "controller-w1", NoPredictor(), None, StatsFollower(settings), dict)
        self.written: list[tuple[str, dict[str, Any]]] = []
        self.term._send = self._send  # type: ignore[method-assign]
        self.term._offenders.update = lambda *_: {"flood": 60.0}  # type: ignore[method-assign]
        if attack:
            self.term.newest = SimpleNamespace(defence=Defence(limit=5.0))  # type: ignore[assignment]

    async def _send(self, epoch: int, sender: Any, scope: str, record: dict[str, Any]) -> int:
        self.written.append((scope, record))
        return len(self.written) - 1

    async def look(self, sender: Any = None) -> None:
        await self.term._block_offenders(1, sender, 0.0)


@pytest.mark.parametrize(
    ("how", "attack", "blocks", "suggests"),
    [
        ("off", False, 0, False),
        ("off", True, 0, True),
        ("monitor", False, 0, False),
        ("monitor", True, 0, True),
        ("on", False, 1, False),
        ("on", True, 1, False),
        ("all", False, 1, False),
        ("all", True, 1, False),
    ],
)
async def test_offenders_are_blocked_with_on_and_all(
    how: str, attack: bool, blocks: int, suggests: bool, caplog: pytest.LogCaptureFixture
) -> None:
    leader = Leader(how, attack)
    with caplog.at_level(logging.WARNING):
        await leader.look()
    assert [scope for scope, _ in leader.written] == ["device/flood"] * blocks
    assert all(record["block"] is True for _, record in leader.written)
    assert ("block_suggested" in caplog.text) == suggests


async def test_a_block_that_is_over_is_removed_and_a_change_of_an_operator_that_was_not_read_yet_comes_back() -> None:
    leader = Leader("on")
    leader.term._offenders.update = lambda *_: {}  # type: ignore[method-assign]
    follower = leader.term._follower

    def read(offset: int, record: dict[str, Any] | None) -> None:
        follower._reading = offset
        follower.consume("device/a", None if record is None else orjson.dumps(record))
        follower._read = offset

    read(0, {"block": True, "until_ms": 1, "author": "controller"})
    removed: list[int] = []

    async def send(_writer: Any) -> int:
        removed.append(2)
        return 2

    await leader.look(SimpleNamespace(send=send))
    assert removed == [2] and leader.written == []
    read(1, {"unblock": True, "author": "ann"})  # written before the removal
    read(2, None)
    await leader.look(SimpleNamespace(send=send))
    ((scope, record),) = leader.written
    assert (scope, record["unblock"], record["author"]) == ("device/a", True, "ann") and removed == [2]
