"""Bulk reads of a partition of the devices changelog: the newest row of each device, and the marker."""

import asyncio
import contextlib
from collections.abc import Callable
from functools import partial

import numpy as np

from klais.core.devices.layout import OPAQUE_ROW, ROW, Rows
from klais.core.lane.checkpoint import Marker, read_marker
from klais.core.lane.journal import LAST_STEP, MARKER_KEY
from klais.core.lane.state import reserve_rows
from klais.errors import JournalFormatError, OtherVersion
from klais.kafka.reader import PartitionReader
from klais.telemetry.log import get
from klais.worker.progress import Progress

log = get("klais.worker.changelog")

_ID_SIZE_AT, _STAMP_AT = (int(ROW.fields[name][1]) for name in ("id_size", "stamp"))  # type: ignore[index]
LOAD_ROWS = 5000  # rows applied at a time


def marker_key(partition: int) -> bytes:
    """Key of a partition's marker row: unique, because no device_id begins with NUL."""
    return MARKER_KEY + b"-%d" % partition


class _Newest:
    """The newest rows in one array, ROW [capacity], of which the first ``used`` are valid."""

    def __init__(self) -> None:
        self.place: dict[bytes, int] = {}
        self.rows: Rows = reserve_rows(LOAD_ROWS)
        self.used = 0

    def put(self, latest: dict[bytes, bytes | None]) -> None:
        """Store the newest value of some devices; None = the device was removed."""
        place = self.place
        removed = [place.pop(key) for key, value in latest.items() if value is None and key in place]
        self.rows["id_size"][removed] = 0
        kept = {key: value for key, value in latest.items() if value is not None}
        new = [key for key in kept if key not in place]
        place.update(zip(new, range(self.used, self.used + len(new)), strict=True))
        self.used += len(new)
        if self.used > len(self.rows):
            before, self.rows = self.rows, reserve_rows(self.used + self.used // 2)
            self.rows.view(OPAQUE_ROW)[: len(before)] = before.view(OPAQUE_ROW)
        index = np.fromiter((place[key] for key in kept), np.int64, len(kept))
        self.rows.view(OPAQUE_ROW)[index] = np.frombuffer(b"".join(kept.values()), OPAQUE_ROW)

    def live(self) -> Rows:
        """Return the rows of all devices that were not removed."""
        rows = self.rows[: self.used]
        return rows if len(self.place) == self.used else rows.view(OPAQUE_ROW)[rows["id_size"] > 0].view(ROW)


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
    reader: PartitionReader, topic: str, partition: int, newest: bytes | None, own: "Own | None" = None
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
    found, wanted, own = None, marker_key(partition), own or Own(None)
    async for record in reader.read(topic, partition, *await reader.offsets(topic, partition)):
        copied = own.copied(record.producer_id)
        if record.key == wanted and record.value and not copied:
            with contextlib.suppress(JournalFormatError):
                found = read_marker(record.value)
    return found, why


class Own:
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
    own: Own | None = None,
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
    own = own or Own(None)
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
