"""Records of ``klais_control`` that the topic lost are written again by the leader, from what its process has read.

Blocks, limits, overrides, mutes and incidents are on that topic only. If somebody deletes it and creates it again, or
Kafka loses its tail, every process that has read them still follows them (:meth:`ControlFollower.missing`). They must
be on the topic for processes that start later.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

from klais.control.overrides import Unread
from klais.control.setpoints import ControlFollower
from klais.telemetry.log import get

log = get("klais.worker.lost_records")

MAX_RECORDS = 500  # written at once: a term that ticks must not wait long
WAIT_S = 10.0

Record = tuple[str, dict[str, Any]]
Write = Callable[[list[Record]], Awaitable[tuple[int, int]]]
"""Writes records by scope; returns the offset of the first (-1 = unknown) and how many of them it wrote."""


class LostRecords:
    """Finds and writes them, for one term.

    Parameters
    ----------
    known : ControlFollower or None
        Has followed the topic since the process started.
    control : ControlFollower
        Started with the term: it has what the topic holds now.
    """

    def __init__(self, known: ControlFollower | None, control: ControlFollower) -> None:
        self._known, self._control = known, control
        self._unread: list[Unread] = []

    async def begin(self, write: Write) -> None:
        """Write all of them, before the state of the previous leader is read. ``control`` has read the topic."""
        if (known := self._known) is None or not known.running:
            return
        until_s = time.monotonic() + WAIT_S
        while known.topic_id != self._control.topic_id and time.monotonic() < until_s:  # noqa: ASYNC110
            await asyncio.sleep(0.1)
        while await self.tick(write):
            last = self._unread[-1].offset
            if not await asyncio.to_thread(self._control.wait_read, last, WAIT_S):
                return

    async def tick(self, write: Write) -> int:
        """Write some of them; returns how many. Call it every second.

        A record that an operator wrote at the same moment, and that was not read yet, may be overwritten: its fields
        are written again, as after any two changes at once.
        """
        if self._known is None:
            return 0
        owed = self._repairs()
        waiting = {one.scope for one in self._unread}
        lost = self._known.missing().items()
        lacking = [(s, r) for s, r in lost if s not in waiting and self._control.record(s) is None]
        owed += lacking[:MAX_RECORDS]
        if not owed:
            return 0
        watched = [Unread(self._control, scope, {}) for scope, _ in owed]
        base, count = await write(owed)
        for i, (one, (_, record)) in enumerate(zip(watched, owed, strict=True)):
            if i < count:
                one.wrote(record, base + i if base >= 0 else -1)
                self._unread.append(one)
            else:
                one.close()
        some = [scope for scope, _ in owed[:5]]
        log.warning("control_records_restored", records=count, some=some, why="the topic lost them")
        return count

    def _repairs(self) -> list[Record]:
        """Records to write because a restored one overwrote that of another writer."""
        waiting, self._unread, owed = self._unread, [], list[Record]()
        for one in waiting:
            record = one.repair()
            if record is None:
                self._unread.append(one)
            elif record:
                owed.append((one.scope, record))
        return owed
