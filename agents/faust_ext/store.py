"""The store of the tables devices and profiles: Faust's view of what the lanes hold, without a copy of it.

A lane's rows are numpy columns that its kernels share. The store makes keys and values from them when somebody asks.
Nothing is set through Faust: checkpoints write the changelog, and after its fence each lane reads back its own
partition of it (:mod:`klais.worker.changelog`). Faust's own recovery takes 45 us a record (measured).

Declare a table with ``options={"lanes": lanes, "value": row_value}``: Faust hands the options of a table to its store.
"""

from collections.abc import Iterator
from typing import Any

from faust.stores.base import SerializedStore

from klais.core.devices.layout import row_key
from klais.worker.lanes import Lanes
from klais.worker.table_values import TableValue

NOTHING_TO_READ = 1 << 62  # an offset beyond any log: Faust's own recovery finds nothing to do


class Store(SerializedStore[bytes, bytes]):
    """Read-only; a value is what its lane has now, keys are unpadded device ids."""

    def __init__(self, *args: Any, options: dict[str, Any], **kwargs: Any) -> None:
        super().__init__(*args, options=options, **kwargs)
        self._lanes: Lanes = options["lanes"]
        self._value: TableValue = options["value"]

    def persisted_offset(self, tp: Any) -> int:
        """The offset up to which Faust need not read."""
        return NOTHING_TO_READ

    def reset_state(self) -> None:
        """Nothing is on disk."""

    async def backup_partition(self, tp: Any, flush: bool = True, purge: bool = False, keep: int = 1) -> None:
        """Nothing to back up: the changelog has all of it."""

    def restore_backup(self, tp: Any, latest: bool = True, backup_id: int = 0) -> None:
        """Nothing to restore."""

    def _get(self, key: bytes) -> bytes | None:
        for lane in self._lanes.by_partition.values():
            if lane.session is not None:
                row = lane.session.state.find(key)
                if row >= 0:
                    return self._value(lane.session.state, row)
        return None

    def _iteritems(self) -> Iterator[tuple[bytes, bytes]]:
        for lane in list(self._lanes.by_partition.values()):
            if lane.session is not None:
                state = lane.session.state
                for at, row in enumerate(state.rows[: state.used]):
                    value = self._value(state, at) if row["id_size"] else None
                    if value is not None:
                        yield row_key(row), value

    def _iterkeys(self) -> Iterator[bytes]:
        return (key for key, _ in self._iteritems())

    def _itervalues(self) -> Iterator[bytes]:
        return (value for _, value in self._iteritems())

    def _size(self) -> int:
        return sum(lane.session.state.devices for lane in self._lanes.by_partition.values() if lane.session is not None)

    def _contains(self, key: bytes) -> bool:
        return self._get(key) is not None

    def _set(self, key: bytes, value: bytes | None) -> None:
        raise TypeError("the lanes write this table's changelog; nothing is set through Faust")

    def _del(self, key: bytes) -> None:
        raise TypeError("the lanes write this table's changelog; nothing is deleted through Faust")

    def _clear(self) -> None:
        raise TypeError("the lanes write this table's changelog; nothing is cleared through Faust")
