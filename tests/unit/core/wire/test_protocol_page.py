"""The code and the tables of docs/protocol.md are true: what they say is executed or compared."""

import json
import re
import socket
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from klais.config.load import Settings
from klais.core.incidents.incident import Incident, shown
from klais.core.incidents.summary import FlagSeen, Summary
from klais.core.wire.batch import encode_batch
from klais.core.wire.constants import FIRST_MALFORMED, LAST_MALFORMED, Reason, encode_frame
from klais.core.wire.partition import partition_of
from klais.kafka.topics import Topics
from tests.support.auth import VECTORS, vector_payload

PAGE = Path(__file__).parents[4] / "docs" / "protocol.md"
HOURS = {"24 h": 24, "7 days": 168, "30 days": 720}


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE.read_text(), re.DOTALL)


def named(name: str) -> Any:
    """The function of that name from the page's Python."""
    (source,) = [block for block in blocks("python") if f"def {name}(" in block]
    space: dict[str, Any] = {}
    exec(source, space)
    return space[name]


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[tuple[bytes, Any]]:
    """Datagrams that the page's device would have sent."""
    out: list[tuple[bytes, Any]] = []

    class Recorder:
        def __init__(self, *_: object) -> None: ...

        def sendto(self, data: bytes, address: Any) -> None:
            out.append((data, address))

    monkeypatch.setattr(socket, "socket", Recorder)
    return out


def test_the_device_sends_a_good_frame(sent: list[tuple[bytes, Any]]) -> None:
    frame = named("frame")
    assert sent == [(encode_frame("dev-1", 1, b'{"t": 21.5}'), ("127.0.0.1", 5000))]
    assert frame("ä", 2**32 - 1, {}) == encode_frame("ä", 2**32 - 1, b"{}")


def test_the_device_that_signs_makes_the_vectors() -> None:
    signed_frame = named("signed_frame")
    for vector in VECTORS["frames"]:
        key, said = bytes.fromhex(vector["device_key"]), (vector[name] for name in ("device_id", "sequence"))
        frame = signed_frame(key, *said, vector_payload(vector), vector["epoch"], vector["generation"])
        assert vector["frame"] is None or frame.hex() == vector["frame"]


def test_the_reader_reads_every_form_of_a_batch() -> None:
    read = named("read_kfb1")
    frames = [encode_frame(f"dev-{i}", i, b'{"t":%d}' % i) for i in range(3)]
    offsets = np.array([0, 7, 9], np.uint32)
    sources = np.arange(54, dtype=np.uint8).reshape(3, 18)
    for with_offsets in (False, True):
        for with_sources in (False, True):
            value = encode_batch(
                frames, 1000, offsets=offsets if with_offsets else None, sources=sources if with_sources else None
            )
            assert list(read(value)) == [
                (
                    1000 + (int(offsets[i]) if with_offsets else 0),
                    sources[i].tobytes() if with_sources else None,
                    f"dev-{i}",
                    i,
                    b'{"t":%d}' % i,
                )
                for i in range(3)
            ]
    signed = encode_batch(frames, 1000, epochs=np.array([0, 1, 2], np.uint32))
    assert [payload for *_, payload in read(signed)] == [frame[22:] for frame in frames]
    for wrong in (b"KFB2" + value[4:], value[:18] + b"\x08\x00" + value[20:], value + b"x"):
        with pytest.raises(ValueError):
            list(read(wrong))


def test_the_reader_is_about_twenty_lines() -> None:
    (source,) = [block for block in blocks("python") if "def read_kfb1(" in block]
    assert len([line for line in source.splitlines() if line.strip()]) <= 22


def test_the_partitioner() -> None:
    partition = named("partition")
    rng = np.random.default_rng(1)
    for size in range(1, 17):
        for _ in range(20):
            device = rng.bytes(size)
            assert partition(device, 12) == partition_of(device, 12)


def test_reasons_are_those_of_the_code() -> None:
    rows = re.findall(r"^\| `(\w+)` \| (edge|lane) \|", PAGE.read_text(), re.MULTILINE)
    malformed = [Reason(r) for r in range(FIRST_MALFORMED, LAST_MALFORMED + 1)]
    at = malformed.index(Reason.BAD_UTF8)
    malformed[at:at] = [Reason.TOO_LONG, Reason.BAD_MAC, Reason.BAD_EPOCH, Reason.UNSIGNED]
    assert [name for name, _ in rows] == [reason.label for reason in malformed]


def test_topics_are_those_of_the_code() -> None:
    pattern = r"^\| `([\w-]+)` \| (n|1) \| ([a-z,]+)(?:, (24 h|7 days|30 days))? \|"
    rows = re.findall(pattern, PAGE.read_text(), re.MULTILINE)
    written = {
        name: (7 if count == "n" else 1, policy, HOURS[keep] * 3_600_000 if keep else None)
        for name, count, policy, keep in rows
    }
    needed = {}
    for spec in Topics.of(Settings(partitions=7)).specs():
        keep = (spec.defaults | spec.config).get("retention.ms")
        needed[spec.name] = (spec.partitions, spec.config["cleanup.policy"], int(keep) if keep else None)
    assert written == needed


def test_json_examples_are_json() -> None:
    telemetry, anomaly, incident, stats = (json.loads(block) for block in blocks("json"))
    assert {"device_id", "seq", "ts", "data"} == set(telemetry)
    assert {"kind", "device_id", "seq", "ts", "feature", "cause", "score", "explanation"} < set(anomaly)
    shape = shown(Incident("i-557ebcd804", "group", "t", Summary.of(FlagSeen("dev-1", "t", "level", 1)), 1))
    assert set(incident) == {"kind", "ts", *shape} and set(incident["first"]) == set(shape["first"])
    assert {"v", "kind", "counters", "rates"} < set(stats)
