"""Batches that wait for Kafka behind the breaker, first in, first out: on disk, and in memory if the disk refuses them.

    oldest |── disk ──|── memory ──| newest

Memory is used if there is no spool, or the disk is full, read-only or broken. It is limited to the bytes that may be in
flight (together with those that are), and its content goes to disk as soon as that works again. When the spool's own
limit is reached, or memory is used up, the newest batch is refused, with the reason.

A failed disk is retried once a second, even if no batches arrive, because batches of an earlier run may be on it.
"""

import time
from collections.abc import Callable
from pathlib import Path

from klais import fault
from klais.config.load import Settings
from klais.core.wire.constants import Reason
from klais.edge.batcher import ClosedBatch
from klais.edge.counts import Counts
from klais.edge.sinks.spool.disk import Spool
from klais.edge.sinks.spool.memory import Memory
from klais.edge.sinks.spool.records import Entry
from klais.edge.sinks.spool.redistribute import OtherCounts
from klais.edge.sinks.spool.segment import identity_of
from klais.errors import NotPrivate, SpoolFull, SpoolInUse
from klais.kafka.topics import Topics
from klais.system.private_files import named_folder
from klais.telemetry import log as logs

log = logs.get("klais.edge.sinks.spool")

RETRY_S = 1.0  # after the disk failed
IN_MEMORY = "the edge receives; batches wait in memory, up to KLAIS_PUBLISH_MAX_INFLIGHT_BYTES"
REMEDY = "fix that disk or its rights, or name another folder with KLAIS_SPOOL_DIR"
REMOVED = (
    "another program removed or moved files of the spool: only this process still has the {:,} frames in them. "
    "Let it run until Kafka has them, and keep that program away from the folder"
)
NOT_SYNCED = "; up to {:,} frames on it are not synced: a crash of this machine may lose them before Kafka has them"
LOCK_WAIT_S = 10.0  # at the start: an edge that is being replaced may need this long to drain


def spool_folder(settings: Settings) -> Path:
    """The folder of this edge's spool."""
    return (settings.spool_dir or settings.state_dir) / f"spool-{settings.edge_id}"


def _checked_folder(settings: Settings) -> Path:
    folder = spool_folder(settings)
    named_folder(folder.parent, "KLAIS_SPOOL_DIR" if settings.spool_dir else "KLAIS_STATE_DIR")
    return folder


class Backlog:
    """Waiting batches, counted in ``counts`` (``spooled``, ``held``, ``recovered``). Belongs to one thread.

    Parameters
    ----------
    settings : Settings
        ``spool_*``, ``publish_max_inflight_bytes``, and the settings that name the topic.
    counts : Counts
        Counters to update.
    lock_wait_s : float
        How long to wait for another process that has the spool; 0 = continue without it, and retry every second.

    Attributes
    ----------
    problem : str
        Why the disk does not accept batches; empty while it does, or if no spool is configured.
    warning : str
        Other files in the spool that no edge delivers; empty if there are none.

    Raises
    ------
    klais.errors.SpoolInUse
        If another process has the spool, and kept it for ``lock_wait_s``.
    """

    def __init__(self, settings: Settings, counts: Counts, lock_wait_s: float = LOCK_WAIT_S) -> None:
        self._settings, self._counts = settings, counts
        self._max_held_bytes = settings.publish_max_inflight_bytes
        self._memory = Memory()
        self._full = Reason.SPOOL_FAILED
        self._spool: Spool | None = None
        self._retry_s = 0.0
        self._lost = 0
        self.problem = self.warning = ""
        self._removed, self._checked_s = 0, 0.0  # frames in files that another program removed
        self._others: OtherCounts | None = None
        self.wanted = settings.spool_max_bytes > 0
        # Existing batches are sent to Kafka even if nothing more is stored.
        self._needed = self.wanted or spool_folder(settings).exists()
        if self._needed:
            self._open(time.monotonic(), lock_wait_s)

    @property
    def durable(self) -> bool:
        """Whether the disk accepts batches, as far as is known."""
        return self.wanted and not self.problem

    @property
    def no_room(self) -> str:
        """Why it would refuse a large batch now; empty while it has room. May be called from any thread."""
        s = self._settings
        if self.durable:
            full = self.bytes + s.batch_max_bytes > s.spool_max_bytes
            return f"the spool is full ({self.bytes:,} of {s.spool_max_bytes:,} bytes)" if full else ""
        if self._counts.inflight_bytes + self._memory.bytes + s.batch_max_bytes <= self._max_held_bytes:
            return ""
        return f"memory is full ({self._memory.bytes:,} bytes wait)" + (f"; {self.problem}" if self.problem else "")

    @property
    def bound(self) -> str:
        """The setting that bounds what waits, as far as is known."""
        return "KLAIS_SPOOL_MAX_BYTES" if self.durable else "KLAIS_PUBLISH_MAX_INFLIGHT_BYTES"

    @property
    def bytes(self) -> int:
        """Size of the spool's files."""
        return self._spool.bytes if self._spool else 0

    @property
    def max_bytes(self) -> int:
        """Limit of the spool's files; 0 = no spool is configured."""
        return self._settings.spool_max_bytes

    @property
    def drained(self) -> bool:
        """Whether all batches have been handed out."""
        return not self._memory and (self._spool is None or self._spool.cursor == self._spool.end)

    def configure(self, settings: Settings) -> None:
        """Apply ``spool_max_bytes``, ``spool_sync``, ``spool_sync_interval_ms`` at run time; files on disk are
        unchanged.
        """
        self._settings, self.wanted = settings, settings.spool_max_bytes > 0
        if self._spool:
            s = settings
            self._spool.configure(s.spool_max_bytes, s.spool_sync, s.spool_sync_interval_ms / 1e3)

    def _open(self, now_s: float, wait_s: float = 0.0) -> None:
        s, topics = self._settings, Topics.of(self._settings)
        identity = identity_of(topics.raw, s.partitions)
        interval_s = s.spool_sync_interval_ms / 1e3
        try:
            folder = _checked_folder(s)
            self._spool = Spool(folder, identity, s.spool_max_bytes, s.spool_sync, interval_s, lock_wait_s=wait_s)
        except OSError as error:
            self._failed(error, now_s)
            return
        except (SpoolInUse, NotPrivate) as error:
            if wait_s:
                raise
            self._failed(OSError(str(error)), now_s)
            return
        spool = self._spool
        self._works()
        self._counts.recovered += spool.recovered
        try:
            self._find_other_segments(spool, topics.raw)
            if self.wanted:
                spool.probe()  # not in the constructor: existing batches must be delivered even if the disk is full
        except OSError as error:
            self._failed(error, now_s)
        if spool.recovered or spool.damage.torn_bytes:
            log.info(
                "spool_recovered",
                folder=str(spool.folder), batches=spool.batches, frames=spool.frames,
                torn_bytes=spool.damage.torn_bytes,
            )  # fmt: skip
        if lost := spool.damage.lost_bytes:
            do = "klais_missing_batches_total of the workers counts the batches: look at the disk"
            self._warn(f"{lost:,} bytes are gone from the middle of the spool {spool.folder}, with their frames: {do}")
            log.error("spool_damaged", folder=str(spool.folder), bytes=lost, do=do)
        self._count()

    def _find_other_segments(self, spool: Spool, topic: str) -> None:
        """Find segments that were not written for this topic and partition count."""
        self._others = OtherCounts(spool, topic, self._settings, self._counts, self._warn)
        if self._others.problem:
            log.warning("spool_of_another_partition_count", folder=str(spool.folder), what=self._others.problem)
        if foreign := set(spool.damage.foreign) - self._others.names:
            do = "start the edge once with the KLAIS_TOPIC_PREFIX of that time, or remove them"
            self._warn(f"{len(foreign)} segments in the spool {spool.folder} are not for {topic}: {do}")
            log.warning("spool_of_another_topic", folder=str(spool.folder), segments=len(foreign), topic=topic, do=do)
        if other := spool.damage.other_version:
            do = "start the edge once with the version that wrote them, or remove them"
            self._warn(f"{len(other)} segments in the spool {spool.folder} are of another version of klais: {do}")
            log.warning("spool_of_another_version", folder=str(spool.folder), segments=len(other), do=do)

    def _warn(self, text: str) -> None:
        self.warning = f"{self.warning}; {text}" if self.warning else text

    def redistribute(self, now_s: float) -> None:
        """Continue to redistribute batches of another partition count; Kafka must have confirmed this one."""
        if self._others is None or now_s < self._retry_s:
            return
        try:
            self._others.step()
        except OSError as error:
            self._failed(error, now_s)
        self._count()

    def problems(self) -> list[str]:
        """Problems with the disk or its contents, as texts; may be called from any thread."""
        disk = f"{self.problem}: {REMEDY}; batches wait in memory until then" if self.problem else ""
        if disk and self._spool and (frames := self._spool.not_synced):
            disk += NOT_SYNCED.format(frames)
        removed = REMOVED.format(self._removed) if self._removed else ""
        return [text for text in (disk, removed, self._others.problem if self._others else "") if text]

    def append(self, built: ClosedBatch, now_s: float) -> Reason:
        """Accept a batch as the newest; returns ``Reason.PASSED``, or the reason of the refusal.

        While batches of this partition that did not come from disk are in flight, call it only if the partition is held
        (:meth:`holds`): otherwise those would be queued after it when they come back.
        """
        reason = self._put(built, now_s, self.hold)
        self._count()
        return reason

    def hold(self, built: ClosedBatch) -> Reason:
        """Like :meth:`append`, but always in memory."""
        if self._counts.inflight_bytes + self._memory.bytes + len(built.value) > self._max_held_bytes:
            return self._full if self.wanted else Reason.BACKPRESSURE
        return self._keep(built)

    def _keep(self, built: ClosedBatch) -> Reason:
        self._memory.put(built)
        self._count()
        return Reason.PASSED

    def _put(self, built: ClosedBatch, now_s: float, otherwise: Callable[[ClosedBatch], Reason]) -> Reason:
        if self.wanted and not self._memory and now_s >= self._retry_s:
            try:
                self._write(built, now_s)
                return Reason.PASSED
            except SpoolFull:
                self._full = Reason.SPOOL_FULL
                return Reason.SPOOL_FULL
            except OSError as error:
                self._failed(error, now_s)
        return otherwise(built)

    def _write(self, built: ClosedBatch, now_s: float) -> None:
        if self._spool is None:
            self._open(now_s)
        if self._spool is None:
            raise OSError(self.problem)
        self._spool.append(built.value, built.partition, built.count)
        fault.at("spool_written")
        self._works()

    def _works(self) -> None:
        if self.problem:
            log.info("spool_recovered_from_error", folder=str(spool_folder(self._settings)), was=self.problem)
            self.problem = ""

    def _retry(self, now_s: float) -> None:
        """Open the spool that could not be opened, or probe the disk that failed; success clears the error."""
        if self._spool is None and self._needed:
            self._open(now_s)
        elif self._spool and self.problem:
            if self._others is None:
                self._find_other_segments(self._spool, Topics.of(self._settings).raw)
            self._spool.probe()
            self._works()

    def _failed(self, error: OSError, now_s: float) -> None:
        self._retry_s, self._full = now_s + RETRY_S, Reason.SPOOL_FAILED
        self.problem = f"the spool {spool_folder(self._settings)} cannot be written: {error.strerror or error}"
        if calls := logs.every(5, "edge.spool_failed"):
            log.error("spool_failed", why=self.problem, calls=calls, now=IN_MEMORY, do=REMEDY)

    def put_back(self, returned: list[ClosedBatch], now_s: float) -> None:
        """Put unacknowledged batches after those on disk and before those in memory; count those that have no room."""
        if self._spool:
            self._spool.rewind()
        newer = list(self._memory)
        self._memory = Memory()
        for built in [*returned, *newer]:
            if reason := self._put(built, now_s, self._keep):  # memory held it before, so it has room now
                self._counts.drop(reason, built.count)
        self._count()

    def holds(self, partition: int) -> bool:
        """Whether a batch of that partition is waiting to be handed out: a newer one must go behind it."""
        if self._spool and self._spool.holds(partition):
            return True
        return self._memory.of[partition] > 0

    def next(self) -> tuple[ClosedBatch, Entry | None] | None:
        """Hand out the oldest batch. A batch from disk stays there until :meth:`done` of its entry; one from memory is
        removed.
        """
        if self._spool and self._spool.cursor < self._spool.end:
            try:
                entry = self._spool.next()
            except OSError as error:
                self._failed(error, time.monotonic())
                return None
            self._count()
            if entry is not None:
                return ClosedBatch(entry.value, entry.partition, entry.frames), entry
        if not self._memory:
            return None
        built = self._memory.pop()
        self._count()
        return built, None

    def give_back(self, built: ClosedBatch, entry: Entry | None) -> None:
        """Undo the last :meth:`next`."""
        if entry is None:
            self._memory.unread(built)
        elif self._spool:
            self._spool.unread(entry)
        self._count()

    def done(self, entry: Entry) -> None:
        """Kafka has acknowledged a batch from disk, or it was given up."""
        if self._spool:
            self._spool.done(entry)
        self._count()

    def maintain(self, now_s: float) -> None:
        """Sync data that is due; move batches from memory to disk when it works again.

        Batches in flight are older than those in memory, and may come back: until then memory stays behind them.
        """
        try:
            if now_s >= self._retry_s and (self.problem or (self._spool is None and self._needed)):
                self._retry(now_s)
            if self._spool:
                self._spool.sync(now_s)
                self._check_files(self._spool, now_s)
                if self._spool.behind is not None and not self.problem:
                    raise self._spool.behind
            while self._memory and self.wanted and now_s >= self._retry_s and not self._counts.inflight:
                self._write(self._memory.first(), now_s)
                self._memory.pop()
        except SpoolFull:
            self._retry_s, self._full = now_s + RETRY_S, Reason.SPOOL_FULL
        except OSError as error:
            self._failed(error, now_s)
        self._count()

    def _check_files(self, spool: Spool, now_s: float) -> None:
        if now_s - self._checked_s >= RETRY_S:
            self._checked_s, before = now_s, self._removed
            self._removed = spool.frames_in_removed_files()
            if self._removed > before:
                log.error("spool_files_removed", folder=str(spool.folder), frames=self._removed)

    def _count(self) -> None:
        spool, counts = self._spool, self._counts
        counts.held, counts.held_bytes = self._memory.frames, self._memory.bytes
        if spool:
            counts.spooled = spool.frames
            if lost := spool.damage.frames - self._lost:
                self._lost = spool.damage.frames
                counts.drop(Reason.SPOOL_DAMAGED, lost)
                log.error("spool_damaged", folder=str(spool.folder), frames=lost, batches=spool.damage.batches)

    def close(self) -> None:
        """Sync everything to disk and release the folder."""
        if self._spool:
            try:
                self._spool.close()
            except OSError as error:
                self._failed(error, time.monotonic())
                means = "the next start finds them, unless this machine crashes or loses power before that"
                log.error("frames_not_synced", frames=self._spool.not_synced, why=self.problem, means=means)
