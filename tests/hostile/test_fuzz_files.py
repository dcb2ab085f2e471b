"""Mutated files of models, samples, manifests and recordings, claims of edges, records of the audit: a result, or the
error that the reader names.
"""

import gzip
import io
import json
from collections.abc import Callable
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest

from klais.core.fingerprint.record import DeviceTypes
from klais.edge.number import END, _claim
from klais.errors import KlaisError, ModelRefused
from klais.fingerprint.model import dump_types, load_types
from klais.fingerprint.snapshot import read_snapshot
from klais.models.card import CARD, Card, read_card, read_file, write_model
from klais.sim.manifest import FORMAT, read_manifest
from klais.traffic.trees import Trees
from klais.ui.audit import _object
from klais.ui.recording import Recording
from tests.hostile.cases import CASES, changed, mutated, read_or_refused, rng, shown

DEEP = [b"[" * 100_000, b'{"a":' * 100_000, b'{"files":' + b"[" * 50_000]
CLAIMS = [b'{"first":1024,"count":2}', b'{"first":true,"count":1}', b'{"first":1e400,"count":1}', b"[1024,2]", b"null"]
AUDIT = [b'{"scope":"device/a","author":"ops","reason":"why","at":1,"before":{},"after":{"block":true}}', b"[]", b'"a"']


def card_of(folder: Path) -> bytes:
    """A model in ``folder``; its card."""
    write_model(folder, {"trees.npz": b"abc"}, {"kind": "traffic", "version": "1", "test": {"macro_f1": 0.9}})
    return (folder / CARD).read_bytes()


@pytest.mark.parametrize("name", ["a\0b", "a\ud800", "x" * 300, "", ".", ".."])
def test_a_name_that_no_file_has_is_refused(tmp_path: Path, name: str) -> None:
    card_of(tmp_path / "1")
    with pytest.raises(ModelRefused):
        read_file(tmp_path / "1", Card("traffic", "1", {name: "00"}, {}), name)


@pytest.mark.parametrize("pages", [1.5, [], "a", None, {"/api/v1/audit": 1}, {"/api/v1/audit": []}])
def test_a_recording_without_pages_is_refused(pages: Any) -> None:
    raw = orjson.loads(gzip.decompress(resources.files("klais.ui").joinpath("demo.json.gz").read_bytes()))
    with pytest.raises(KlaisError, match="not a recording"):
        Recording(gzip.compress(orjson.dumps(raw | {"pages": pages, "events": raw["events"][:1]}), 1))


@pytest.mark.parametrize(
    "text",
    [
        *DEEP,
        json.dumps({"kind": "a", "version": "1", "format": 1, "files": [[1, "x"]]}).encode(),
        json.dumps({"kind": "a", "version": "1", "format": 1, "files": {"../x": "y"}}).encode(),
        json.dumps({"kind": "a", "version": "1", "format": 1, "files": {"x": 1}}).encode(),
        b"[]",
        b'"a"',
        b"9" * 5_000,
        b"\xff",
    ],
    ids=range(10),
)
def test_a_card_that_is_none_is_refused(tmp_path: Path, text: bytes) -> None:
    """A deeply nested one ended the process that looked for models."""
    card_of(tmp_path / "1")
    (tmp_path / "1" / CARD).write_bytes(text)
    with pytest.raises(ModelRefused, match=r"card\.json is damaged"):
        read_card(tmp_path / "1")


def test_a_mutated_card_is_read_or_refused(tmp_path: Path) -> None:
    random, outcomes = rng("cards"), [0, 0]
    folder = tmp_path / "1"
    whole = card_of(folder)
    for turn in range(max(20, CASES // 1000)):
        value = whole if turn == 0 else mutated(random, whole, [whole, b'{"files":{}}'], 3)
        (folder / CARD).write_bytes(value)
        try:
            card = read_card(folder)
            for name in card.files:
                read_file(folder, card, name)
            outcomes[1] += 1
        except ModelRefused:
            outcomes[0] += 1
        except Exception as error:
            raise AssertionError(shown(value)) from error
    assert all(outcomes)


def test_a_mutated_claim_names_numbers_of_edges_or_none() -> None:
    random, outcomes = rng("claims"), [0, 0]
    for turn in range(max(2 * len(CLAIMS), CASES // 100)):
        seed = (CLAIMS + DEEP)[turn % 8] if turn < 8 else mutated(random, CLAIMS[turn % 5], CLAIMS, 3)
        try:
            claim = _claim("edge", seed)
            assert 0 <= claim.first < END and 0 < claim.size <= 256
            outcomes[1] += 1
        except ValueError:
            outcomes[0] += 1
        except Exception as error:
            raise AssertionError(shown(seed)) from error
    assert all(outcomes)


def test_a_mutated_record_of_the_audit_is_an_object_or_left_out() -> None:
    random, outcomes = rng("audit"), [0, 0]
    for turn in range(max(20, CASES // 100)):
        seed = (AUDIT + DEEP)[turn % 6] if turn < 6 else mutated(random, AUDIT[turn % 3], AUDIT, 3)
        outcomes[isinstance(_object(seed), dict)] += 1
    assert _object(None) is None and all(outcomes)


def packed(arrays: dict[str, Any]) -> bytes:
    out = io.BytesIO()
    np.savez(out, **arrays)
    return out.getvalue()


TYPES = DeviceTypes("v", ("a", "b"), np.full((2, 64), 0.5), np.ones((2, 2)), np.ones((2, 2)), 12.0)
SNAPSHOT: dict[str, Any] = {
    **{"mask": np.zeros(24, "u8"), "interval": np.zeros(24, "f4"), "size": np.zeros(24, "f4")},
    **{"device": np.repeat(np.arange(2, dtype="i4"), 12), "paths": np.zeros((2, 8), "u4")},
    "names": np.frombuffer(b"1 t\n2 h", "u1"),
}
TREES: dict[str, Any] = {
    **{"starts": np.array([0, 3]), "targets": np.zeros(1, "i2"), "feature": np.zeros(3, "i4")},
    **{"threshold": np.zeros(3, "f4"), "left": np.array([1, 0, 0], "i4"), "right": np.array([2, 0, 0], "i4")},
    **{"leaf": np.array([False, True, True]), "value": np.zeros(3), "base": np.zeros(1)},
    **{"probe": np.zeros((1, 2), "f4"), "answers": np.zeros((1, 1))},
}
OVERFLOWS = np.array([0, 1 << 62, -(1 << 63), -(1 << 62), 0, 3])
ODD_ARRAYS: list[Any] = [
    *(np.zeros(0), np.array(3.0), np.array(["x"]), np.zeros((2, 2), complex), np.array([b"\xff"]), np.array([True])),
    *(np.full(24, 2**31 - 1, "i4"), np.full(24, -1, "i4"), np.frombuffer(b"\xff\nx y\n9 y", "u1"), np.zeros((24, 2))),
    *(OVERFLOWS, np.zeros(5, "i2"), np.full((2, 64), np.nan), np.zeros((3, 2), "i4")),
]


def npz_of(whole: dict[str, Any]) -> Callable[[Any, int], bytes]:
    data = packed(whole)

    def made(random: Any, turn: int) -> bytes:
        if turn == 0:
            return data
        if turn % 2:
            return mutated(random, data, [data], 2)
        names = [name for name in whole if random.random() < 0.8]
        name = list(whole)[int(random.integers(len(whole)))]
        return packed({n: whole[n] for n in names} | {name: ODD_ARRAYS[int(random.integers(len(ODD_ARRAYS)))]})

    return made


@pytest.mark.filterwarnings("ignore")
def test_mutated_arrays_of_models_and_samples_are_read_or_refused(tmp_path: Path) -> None:
    """Compression that zipfile does not know, and numbers of devices that took 16 GiB, ended in a traceback."""
    with np.load(io.BytesIO(dump_types(TYPES))) as file:
        types = dict(file)
    read_or_refused("types", 500, npz_of(types), lambda data: load_types(data, "v"))

    def snapshot(data: bytes) -> None:
        (tmp_path / "s.npz").write_bytes(data)
        (tmp_path / "s.npz").chmod(0o600)
        read_snapshot(tmp_path / "s.npz")

    read_or_refused("snapshots", 500, npz_of(SNAPSHOT), snapshot)
    read_or_refused("trees", 500, npz_of(TREES), lambda data: Trees.load(data, 2, 1))


def test_trees_whose_sizes_do_not_fit_into_64_bits_are_refused() -> None:
    with pytest.raises(ModelRefused, match="not consecutive"):
        Trees.load(packed(TREES | {"starts": OVERFLOWS, "targets": np.zeros(5, "i2")}), 2, 1)


def test_a_mutated_manifest_is_read_or_refused(tmp_path: Path) -> None:
    head = json.dumps({"format": FORMAT, "id_prefix": "sim-", "devices": 5}).encode()
    whole = head + b"\n" + bytes(4) + b'{"sent":1}'

    def read(data: bytes) -> None:
        (tmp_path / "m").write_bytes(data)
        found = read_manifest(tmp_path / "m")
        assert found.by_kind() is not None
        if found.header.get("devices", 0) < 10_000:
            assert found.ids().shape[1] == 16

    def made(random: Any, turn: int) -> bytes:
        if turn % 3 == 1:
            return orjson.dumps(changed(random, json.loads(head))) + whole[len(head) :]
        return whole if turn == 0 else mutated(random, whole, [whole, *DEEP[:1]], 3)

    read_or_refused("manifests", 500, made, read)


def test_a_mutated_recording_is_played_or_refused() -> None:
    raw = orjson.loads(gzip.decompress(resources.files("klais.ui").joinpath("demo.json.gz").read_bytes()))
    history = {name: raw["history"][name][:2] for name in ("at_ms", "edges")}
    pages = {"/api/v1/audit": {"changes": [{"at": 1}]}}
    small = raw | {"events": raw["events"][:1], "history": history, "pages": pages}
    data = gzip.compress(orjson.dumps(small))

    def made(random: Any, turn: int) -> bytes:
        if turn == 0:
            return data
        if turn % 3 == 1:
            return mutated(random, data, [data], 2)
        return gzip.compress(orjson.dumps(changed(random, small)), 1)

    def read(value: bytes) -> None:
        recording = Recording(value)
        recording.event(), recording.since()
        orjson.dumps([recording.page(path) for path in recording.pages])

    read_or_refused("recordings", 1000, made, read)
