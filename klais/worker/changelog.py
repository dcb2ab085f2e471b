"""Bulk reads of a partition of the devices changelog: the newest row of each device, and the marker."""

import asyncio
import contextlib
from collections.abc import Callable
from functools import partial

import numpy as np

from klais.core.devices.index import find_or_insert_rows, remove
from klais.core.devices.layout import OPAQUE_ROW, ROW, Rows
from klais.core.lane.checkpoint import Marker, read_marker
from klais.core.lane.journal import LAST_STEP, MARKER_KEY
from klais.core.lane.state import LaneState
from klais.errors import JournalFormatError, OtherVersion
from klais.kafka.reader import PartitionReader
from klais.telemetry.log import get
from klais.worker.progress import Progress

log = get("klais.worker.changelog")

_ID_SIZE_AT, _STAMP_AT = (int(ROW.fields[name][1]) for name in ("id_size", "stamp"))  # type: ignore[index]
LOAD_ROWS = 1000  # rows applied at a time: their objects are small and many, and would leave holes in the heap


def marker_key(partition: int) -> bytes:
    """Key of a partition's marker row: unique, because no device_id begins with NUL."""
    return MARKER_KEY + b"-%d" % partition


class _Newest:
    """The newest rows, in a table like that of a lane.

    A dict of keys would do, but its objects are as many as the devices. They share their memory with objects that live
    longer, so that it stays with the process.
    """

    def __init__(self) -> None:
        self._table, self._removed = LaneState(), 0

    def put(self, latest: dict[bytes, bytes | None]) -> None:
        """Store the newest value of some devices; None = the device was removed."""
        table = self._table
        for row in (table.find(key) for key, value in latest.items() if value is None):
            if row >= 0:
                remove(table.slots, table.index_key, table.rows, row)
                table.rows["id_size"][row] = 0
                self._removed += 1
        values = [value for value in latest.values() if value is not None]
        if not values:
            return
        given = np.frombuffer(b"".join(values), OPAQUE_ROW)
        ids, sizes = given.view(ROW)["id"].copy(), given.view(ROW)["id_size"].copy()
        at = np.empty(len(values), np.int32)
        table.make_room(len(values))
        find_or_insert_rows(table.slots, table.index_key, table.rows, table.free, table.room, ids, sizes, at)
        table.rows.view(OPAQUE_ROW)[at] = given

    def live(self) -> Rows:
        """Return the rows of all devices that were not removed."""
        rows = self._table.rows[: self._table.used]
        return rows if not self._removed else rows.view(OPAQUE_ROW)[rows["id_size"] > 0].view(ROW)


def _is_row(key: bytes, value: bytes) -> bool:
    """Whether ``value`` is a valid row of the device ``key``.

    A row with another key's id would make the table useless. A step stamp above all steps that a lane can reach would
    leave no number for the next step.
    """
    return (
        len(value) == ROW.itemsize
        and value[:16] == key.ljust(16, b"\0")
        and value[_ID_SIZE_AT] == len(key)
        and int.from_bytes(value[_STAMP_AT : _STAMP_AT + 8], "little") <= LAST_STEP
    )


async def load_marker(
    reader: PartitionReader, topic: str, partition: int, newest: bytes | None, own: "OwnRecords | None" = None
) -> tuple[Marker | None, str]:
    """The newest readable marker, and why ``newest`` is not readable ("" = it is). Copies (``own``) do not count.

    An older marker also works, if the journal reaches back to it: newer rows skip the steps that they contain.

    Raises
    ------
    klais.errors.OtherVersion
        If ``newest`` has another version.
    klais.errors.KlaisError
        If reading fails.
    """
    if newest is None:
        return None, ""
    try:
        return read_marker(newest), ""
    except OtherVersion:
        raise
    except JournalFormatError as error:
        why = str(error)
    found, wanted, own = None, marker_key(partition), own or OwnRecords(None)
    async for record in reader.read(topic, partition, *await reader.offsets(topic, partition)):
        copied = own.copied(record.producer_id)
        if record.key == wanted and record.value and not copied:
            with contextlib.suppress(JournalFormatError):
                found = read_marker(record.value)
    return found, why


class OwnRecords:
    """Tells the records of this lane from those copied from the topics of another system.

    A lane keeps its producer id over its sessions; only a new one after an expiry or 32,766 fences is higher. So once a
    record of the present id was read, a later one of another id is a copy. Before that, its owner is unknown.

    Parameters
    ----------
    producer_id : int
        Of the session's fence; None = unknown, so that no record counts as a copy.

    Attributes
    ----------
    copies : int
        Copied records so far.
    """

    def __init__(self, producer_id: int | None) -> None:
        self._producer_id, self._known, self.copies = producer_id, False, 0

    def copied(self, producer_id: int, readable: Callable[[], bool] | None = None) -> bool:
        """Whether a record is a copy; one that is not ``readable`` is damage, not a copy."""
        if producer_id == self._producer_id:
            self._known = True
        elif self._known and (readable is None or readable()):
            self.copies += 1
            return True
        return False

    def report(self, topic: str, partition: int) -> None:
        """Log the copies in a topic, and count from 0 again."""
        if self.copies:
            why = (
                "another KLAIS wrote them, and they were copied here: stop the program that copies topics into this one"
            )
            log.error("copied_records_skipped", topic=topic, partition=partition, records=self.copies, why=why)
        self.copies = 0


def _is_marker(value: bytes) -> bool:
    try:
        read_marker(value)
    except JournalFormatError:
        return False
    return True


async def load_partition(
    reader: PartitionReader,
    topic: str,
    partition: int,
    own: OwnRecords | None = None,
    progress: Progress | None = None,
) -> tuple[Rows, bytes | None]:
    """Read the rows (ROW [n], one per device) and the marker, None if there is none (a million rows take seconds).

    Call this only after the fence, when no previous owner can write to the changelog. Records that are not rows are
    skipped: another program wrote them, and they cannot be removed before the next compaction. So are copies that
    ``own`` recognises.

    Raises
    ------
    klais.errors.KlaisError
        If reading fails.
    """
    start, end = await reader.offsets(topic, partition)
    progress = progress or Progress()
    progress.begin("devices", start, end)
    own = own or OwnRecords(None)
    newest, latest = _Newest(), dict[bytes, bytes | None]()
    marker, wanted, foreign = None, marker_key(partition), 0
    async for record in reader.read(topic, partition, start, end):
        key, value, progress.at = record.key, record.value, record.offset
        if key is None:
            continue
        if key[:1] == b"\0":
            if key == wanted and value and not own.copied(record.producer_id, partial(_is_marker, value)):
                marker = value  # no worker removes the marker
            continue
        if value is not None and not _is_row(key, value):
            foreign += 1  # the version is checked by the marker
            continue
        if own.copied(record.producer_id):  # also a tombstone: it would remove a device of ours
            continue
        latest[key] = value
        if len(latest) >= LOAD_ROWS:
            newest.put(latest)
            latest = {}
            await asyncio.sleep(0)
    newest.put(latest)
    own.report(topic, partition)
    if foreign:
        log.warning("foreign_records_skipped", topic=topic, partition=partition, records=foreign)
    return newest.live(), marker
