"""Authenticated frames through the edge's spine: what lands on klais_raw, what is refused, and a reload of the keys."""

import os
from pathlib import Path
from typing import Any

import pytest

from klais.config.load import Settings
from klais.core.wire.batch import FLAG_EPOCHS, decode_batch
from klais.core.wire.constants import Reason, encode_frame
from klais.edge.auth import Authenticator
from klais.edge.batcher import Batcher
from klais.edge.counts import Counts
from klais.edge.linger import LingerController
from klais.edge.shedding import LoadShedder
from klais.edge.signals import changed
from klais.edge.sinks.dead_letters import DeadLetters
from klais.edge.spine import Spine
from klais.errors import ConfigError
from tests.support.auth import SECRET, signed
from tests.unit.edge.test_spine import MemorySink, MemorySource, balance

FORGED = signed("dev-1", 2, b"{}")[:-1] + b"?"
LONG = b"{" + b"x" * 200 + b"}"
EPOCH = 1_700_000_000


def private(path: Path, text: str) -> Path:
    """A file that only this user can read."""
    path.write_text(text)
    path.chmod(0o600)
    return path


def with_keys(folder: Path, **settings: Any) -> Settings:
    """Settings with a file of one generation, 1."""
    return Settings(auth_key_file=private(folder / "keys", f"# two\n1 {SECRET.hex()}\n"), **settings)


def build(settings: Settings, calls: list[list[bytes]], now_s: float = EPOCH) -> tuple[Spine, MemorySink]:
    """A spine with two pieces of memory, as the UDP source has them."""
    counts = Counts()
    sink, source = MemorySink(counts), TwoPieces(calls)
    to: Any = sink
    where: Any = source
    auth = Authenticator(settings, source.capacity, lambda: now_s)
    letters = DeadLetters(to, counts, 1000.0, 1e9, edge_id=3, partitions=1, frame_max_bytes=settings.frame_max_bytes)
    linger = LingerController(5_000_000, 1 << 24, source.capacity)
    batcher = Batcher(1, 20_000, 3, 99, with_sources=True, with_epochs=True)
    spine = Spine(where, batcher, to, letters, counts, linger, LoadShedder(1), settings.frame_max_bytes, auth=auth)
    return spine, sink


class TwoPieces(MemorySource):
    """The first 64 bytes of a frame in memory that is read-only, the rest somewhere else."""

    head_size = 64

    def __init__(self, calls: list[list[bytes]]) -> None:
        super().__init__(calls)
        self.tail = self.head.copy()
        self.tail_starts = self.starts.copy()

    def fill(self, wait_ns: int) -> int:
        self.head.flags.writeable = True
        n = super().fill(wait_ns)
        for i in range(n):
            start, size = int(self.starts[i]), int(self.lengths[i])
            self.tail[start : start + max(0, size - 64)] = self.head[start + 64 : start + max(64, size)]
            self.head[start + 64 : start + max(64, size)] = 0
        self.head.flags.writeable = False
        return n


def run(spine: Spine, sink: MemorySink) -> list[tuple[bytes, int]]:
    """Frames and epochs that land on the staging topic."""
    spine.round(spine.source.fill(0), 0)
    assert spine.drain(1.0, 1.0) == 0
    assert spine.counts.received == balance(spine.counts)
    landed = []
    for built in sink.taken:
        batch = decode_batch(built.value)
        assert built.value[18] == FLAG_EPOCHS | 3
        assert batch.epochs is not None
        landed += [(batch.frame(i), int(batch.epochs[i])) for i in range(batch.count)]
    return landed


def test_signed_frames_land_as_plain_ones_with_their_epoch(tmp_path: Path) -> None:
    frames = [
        signed("dev-1", 1, b'{"t":1}', EPOCH),
        signed("dev-2", 2, LONG, 5),
        FORGED,
        encode_frame("dev-3", 3, b"{}"),
    ]
    frames += [encode_frame("old-1", 4, LONG), signed("dev-4", 5, b"{}", generation=2)]
    spine, sink = build(with_keys(tmp_path, auth="require", auth_exempt="old-,x"), [frames])
    assert run(spine, sink) == [
        (encode_frame("dev-1", 1, b'{"t":1}'), EPOCH),
        (encode_frame("dev-2", 2, LONG), 5),
        (encode_frame("old-1", 4, LONG), 0),
    ]
    assert spine.counts.totals()["dropped"] == {"bad_mac": 2, "unsigned": 1}
    letters = [(value, key, headers["reason"]) for value, key, headers, _ in sink.letters]
    assert letters == [
        (FORGED, b"dev-1", b"bad_mac"),
        (frames[3], b"dev-3", b"unsigned"),
        (frames[5], b"dev-4", b"bad_mac"),
    ]
    assert spine.auth is not None
    assert {labels: n for labels, n in spine.auth.frames().items() if n} == {
        ("ok", "1"): 2, ("bad_mac", "1"): 1, ("no_key", "2"): 1, ("exempt", ""): 1, ("unsigned", ""): 1,
    }  # fmt: skip


def test_monitor_drops_nothing_and_signs_nothing_that_is_forged(tmp_path: Path) -> None:
    frames = [FORGED, signed("dev-1", 1, LONG), encode_frame("dev-1", 3, b"{}")]
    spine, sink = build(with_keys(tmp_path, auth="monitor"), [frames])
    plain = [encode_frame("dev-1", 2, b"{}"), encode_frame("dev-1", 1, LONG), encode_frame("dev-1", 3, b"{}")]
    assert run(spine, sink) == list(zip(plain, (0, 1, 0), strict=True))
    assert spine.counts.totals()["dropped"] == {}


def test_the_limit_on_a_frame_counts_its_plain_form(tmp_path: Path) -> None:
    fits, over = (signed("dev-1", 1, b"{" + b"x" * n + b"}") for n in (254, 255))
    assert len(fits) == 278 + 13
    spine, sink = build(with_keys(tmp_path, auth="require", frame_max_bytes=278), [[fits, over]])
    assert [len(frame) for frame, _ in run(spine, sink)] == [278]
    assert spine.counts.by_reason[Reason.TOO_LONG] == 1
    assert [(value, headers["bytes"]) for value, _, headers, _ in sink.letters] == [(over[:278], b"292")]


def test_epochs_ahead_of_the_clock(tmp_path: Path) -> None:
    settings = with_keys(tmp_path, auth="require", auth_max_skew_s=60)
    spine, sink = build(settings, [[signed("dev-1", 1, b"{}", EPOCH + 60), signed("dev-2", 1, b"{}", EPOCH + 61)]])
    assert [epoch for _, epoch in run(spine, sink)] == [EPOCH + 60]
    assert spine.counts.totals()["dropped"] == {"bad_epoch": 1}


def test_keys_are_read_again(tmp_path: Path) -> None:
    frame, old = signed("dev-1", 1, b"{}", generation=2), signed("dev-1", 2, b"{}", generation=1)
    settings = with_keys(tmp_path, auth="require")
    spine, sink = build(settings, [[frame], [frame, old], [frame, old]])
    auth = spine.auth
    assert auth is not None
    passed = []
    spine.round(spine.source.fill(0), 0)
    private(tmp_path / "keys", f"1 {SECRET.hex()}\n2 {SECRET.hex()}\n")
    auth.configure(settings)
    spine.round(spine.source.fill(0), 0)
    private(tmp_path / "keys", "2 nothing\n")
    with pytest.raises(ConfigError, match="not hex"):
        auth.configure(settings)
    assert auth.generations == [1, 2]
    private(tmp_path / "keys", f"2 {SECRET.hex()}\n")
    auth.configure(settings)
    spine.round(spine.source.fill(0), 0)
    assert spine.drain(1.0, 1.0) == 0
    passed = [decode_batch(built.value).count for built in sink.taken]
    assert passed == [2, 1]
    assert spine.counts.totals()["dropped"] == {"bad_mac": 2}


def test_what_a_reload_may_change() -> None:
    now, later = changed(Settings(auth="monitor"), Settings(auth="require", auth_exempt="a-"))
    assert (now, later) == ({"auth": "require", "auth_exempt": "a-"}, [])
    assert changed(Settings(), Settings(auth="monitor")) == ({}, ["KLAIS_AUTH"])
    assert changed(Settings(auth="sticky"), Settings()) == ({}, ["KLAIS_AUTH"])


BAD_FILES = {
    "4 " + "00" * 32: "line 1: must be a generation",
    "1 " + "00" * 31: "31 bytes",
    "1 xyz": "not hex",
    "1": "must be a generation",
    "# none\n1 " + "00" * 32 + "\n1 " + "00" * 32: "line 3: duplicate generation 1",
}


@pytest.mark.parametrize(("text", "why"), BAD_FILES.items(), ids=BAD_FILES.values())
def test_files_that_are_refused(tmp_path: Path, text: str, why: str) -> None:
    with pytest.raises(ConfigError, match=why) as caught:
        Authenticator(Settings(auth="require", auth_key_file=private(tmp_path / "k", text)), 1)
    assert "00" * 16 not in str(caught.value)


BAD_TABLES = ["[]", "{", '{"": null}', '{"a": 1}', '{"a": "00"}', '{"0123456789abcdefg": null}']


@pytest.mark.parametrize("text", BAD_TABLES)
def test_tables_of_keys_that_are_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigError, match="KLAIS_AUTH_KEYS_FILE"):
        Authenticator(Settings(auth="require", auth_keys_file=private(tmp_path / "k", text)), 1)


def test_keys_that_others_can_read_are_refused(tmp_path: Path) -> None:
    settings = with_keys(tmp_path, auth="require")
    os.chmod(tmp_path / "keys", 0o644)
    with pytest.raises(ConfigError, match="others can read it"):
        Authenticator(settings, 1)
    with pytest.raises(ConfigError, match="klais auth new"):
        Authenticator(Settings(auth="require"), 1)
