"""The spool against a list: appends, reads, acknowledgements in any order, rewinds, restarts, torn tails, flipped
bits.
"""

import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from klais.edge.sinks.spool.disk import Spool
from klais.edge.sinks.spool.records import Entry
from klais.edge.sinks.spool.segment import HEADER_SIZE
from klais.errors import SpoolFull

BOUND = 40_000


@dataclass
class Batch:
    """One appended batch: where it lies, and what became of it."""

    value: bytes
    partition: int
    frames: int
    begin: int
    end: int
    damaged: bool = False
    acked: bool = False


class SpoolMachine(RuleBasedStateMachine):
    """``batches`` are all that were appended and neither cut off nor acknowledged by a start before; oldest first."""

    @initialize(sync=st.sampled_from(["batch", "interval", "none"]))
    def begin(self, sync: str) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="klais-spool-"))
        self.sync = sync
        self.batches: list[Batch] = []
        self.out: list[tuple[Entry, Batch]] = []
        self.lost_before = 0
        self.spool = self.open()

    def open(self) -> Spool:
        return Spool(self.folder, 7, BOUND, self.sync, segment_bytes=3000)  # type: ignore[arg-type]

    def teardown(self) -> None:
        if hasattr(self, "spool"):
            self.read_all()
            self.spool.close()
            shutil.rmtree(self.folder)

    @rule(
        size=st.integers(0, 1200),
        partition=st.integers(0, 3),
        frames=st.integers(1, 9),
        fill=st.sampled_from([b"KSR1", b"x"]),
    )
    def append(self, size: int, partition: int, frames: int, fill: bytes) -> None:
        value = (fill * size)[:size]
        begin = self.spool.end
        full = self.spool.bytes + HEADER_SIZE + size > BOUND
        try:
            self.spool.append(value, partition, frames)
        except SpoolFull:
            assert full
            return
        assert not full
        self.batches.append(Batch(value, partition, frames, begin, self.spool.end))

    def expected(self) -> Batch | None:
        cursor = self.spool.cursor
        return next((b for b in self.batches if b.begin >= cursor and not b.damaged and not b.acked), None)

    @rule()
    def read(self) -> None:
        self.read_one()

    def read_one(self) -> bool:
        wanted, entry = self.expected(), self.spool.next()
        if wanted is None:
            assert entry is None
            return False
        assert entry is not None
        assert (entry.value, entry.partition, entry.frames) == (wanted.value, wanted.partition, wanted.frames)
        self.out.append((entry, wanted))
        return True

    @precondition(lambda self: self.out)
    @rule()
    def unread(self) -> None:
        self.spool.unread(self.out.pop()[0])

    @precondition(lambda self: self.out)
    @rule(which=st.integers(0, 1 << 30))
    def done(self, which: int) -> None:
        entry, batch = self.out[which % len(self.out)]
        if batch is not self.out[-1][1] or len(self.out) == 1:  # the last stays the one that may be taken back
            self.out.remove((entry, batch))
            batch.acked = True
            self.spool.done(entry)

    @rule()
    def rewind(self) -> None:
        self.spool.rewind()
        self.out.clear()

    @rule(now_s=st.floats(0, 100))
    def force(self, now_s: float) -> None:
        self.spool.sync(now_s)

    @rule(torn=st.integers(0, 2000), garbage=st.binary(max_size=60))
    def restart(self, torn: int, garbage: bytes) -> None:
        """Like a crash: what was acknowledged out of turn is not known any more; the last file may end anywhere."""
        self.spool.close()
        self.out.clear()
        position = self.spool.position
        files = sorted(self.folder.glob("*.spool"))
        if files:
            data = files[-1].read_bytes()
            base = int(files[-1].name[:20])
            kept = data[: max(0, len(data) - torn)]
            files[-1].write_bytes(kept + garbage)
            self.batches = [b for b in self.batches if b.end <= base + len(kept)]
        self.batches = [b for b in self.batches if b.end > position]
        for batch in self.batches:
            batch.acked = False
        while self.batches and self.batches[-1].damaged and files and self.batches[-1].begin >= base:
            self.batches.pop()  # a tail that is damaged is cut like a torn one
        self.spool = self.open()
        self.lost_before = 0
        readable = [b for b in self.batches if not b.damaged]
        assert self.spool.recovered >= sum(b.frames for b in readable)

    @precondition(lambda self: any(b.begin >= self.spool.cursor for b in self.batches))
    @rule(which=st.integers(0, 1 << 30), at=st.integers(0, 1 << 30), bit=st.integers(0, 7))
    def damage(self, which: int, at: int, bit: int) -> None:
        """Flip one bit of a batch that was not read yet."""
        waiting = [b for b in self.batches if b.begin >= self.spool.cursor]
        batch = waiting[which % len(waiting)]
        offset = batch.begin + at % (batch.end - batch.begin)
        path = max((p for p in self.folder.glob("*.spool") if int(p.name[:20]) <= offset), key=lambda p: p.name)
        data = bytearray(path.read_bytes())
        data[offset - int(path.name[:20])] ^= 1 << bit
        if not batch.damaged:
            path.write_bytes(data)
            batch.damaged = True

    def read_all(self) -> None:
        while self.read_one():
            pass
        for entry, batch in self.out:
            batch.acked = True
            self.spool.done(entry)
        self.out.clear()
        assert self.spool.next() is None
        assert (self.spool.frames, self.spool.batches) == (0, 0)
        assert self.spool.position == self.spool.end
        assert not list(self.folder.glob("*.spool")) and self.spool.bytes == 0

    @invariant()
    def it_adds_up(self) -> None:
        if not hasattr(self, "spool"):
            return
        assert self.spool.bytes == sum(path.stat().st_size for path in self.folder.glob("*.spool")) <= BOUND
        assert self.spool.frames >= sum(b.frames for b in self.batches if not b.damaged and not b.acked)
        if not any(b.damaged for b in self.batches):
            for p in range(4):
                cursor = self.spool.cursor
                waits = any(b.partition == p and b.begin >= cursor and not b.acked for b in self.batches)
                assert self.spool.holds(p) == waits


TestSpool = SpoolMachine.TestCase
