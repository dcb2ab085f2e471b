"""Types from samples: clusters, names, the files that hold snapshot and model, and those that are refused."""

import io
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from klais.core.fingerprint.record import SAMPLE, DeviceTypes
from klais.errors import ModelRefused
from klais.fingerprint.model import FILE, KIND, MAX_NAME_BYTES, dump_types, load_types, types_of
from klais.fingerprint.naming import name_types
from klais.fingerprint.snapshot import Snapshot, read_snapshot, write_snapshot
from klais.fingerprint.training import prune, train
from klais.models.card import write_model
from tests.support.device_types import store_of

RNG = np.random.default_rng(5)


def snapshot(*types: tuple[int, float, int], devices: int = 8, samples: int = 20) -> Snapshot:
    """``types``: (mask, interval s, payload bytes)."""
    parts, paths = [], []
    for mask, interval_s, size in types:
        for _ in range(devices):
            at = np.empty(samples, SAMPLE)
            at["mask"] = mask
            at["interval"] = np.log(interval_s) + RNG.normal(0, 0.05, samples)
            at["size"] = np.log(size) + RNG.normal(0, 0.02, samples)
            parts.append(at)
            paths.append([mask, 0])
    device = np.repeat(np.arange(len(parts), dtype=np.int32), samples)
    names = {mask: f"field{mask}" for mask, _, _ in types}
    return Snapshot(np.concatenate(parts), device, np.array(paths, np.uint32), names)


def trained(tmp_path: Path, given: Snapshot) -> tuple[DeviceTypes, dict]:
    store = store_of(tmp_path)
    card = train(given, lambda version: store.new_folder(KIND, version))
    store.activate(KIND, card.version)
    types, problems = types_of(store)
    assert types is not None and problems == []
    return types, card.about


def test_devices_cluster_by_fields_interval_and_size(tmp_path: Path) -> None:
    types, about = trained(tmp_path, snapshot((3, 10, 60), (12, 10, 60), (3, 600, 60), (3, 10, 600)))
    assert len(types.names) == 4
    assert about["test"]["accuracy"] == 1.0 and about["test"]["devices_of_a_type"] == 1.0
    assert {round(row["interval_s"] / 100) for row in about["types"]} == {0, 6}
    assert sorted(row["devices"] for row in about["types"]) == [8] * 4


def test_what_nobody_could_tell_apart_is_one_type_and_few_devices_are_none(tmp_path: Path) -> None:
    given = snapshot((3, 10, 60), (3, 14, 62))
    assert len(trained(tmp_path, given)[0].names) == 1
    with pytest.raises(ModelRefused, match="too few"):
        train(snapshot((3, 10, 60), devices=2), lambda version: tmp_path / version)
    lonely = snapshot(*((1 << at, 10, 60) for at in range(6)), devices=1)
    with pytest.raises(ModelRefused, match="no devices are similar"):
        train(lonely, lambda version: tmp_path / version)


def test_the_same_snapshot_gives_the_same_model(tmp_path: Path) -> None:
    given = snapshot((3, 10, 60), (12, 10, 60))
    assert trained(tmp_path / "a", given)[0].version == trained(tmp_path / "b", given)[0].version


@pytest.mark.parametrize(
    "fields",
    [
        [["a" * 99]] * 3,
        [["\U0001f600" * 30]] * 3,
        [[]] * 3,
        [["temp"]] * 70,
        [["lat", "x"], ["lat", "y"], ["lat", "x"]],
        [],
    ],
)
def test_names_differ_and_are_short_whatever_the_fields_are_called(fields: list[list[str]]) -> None:
    names = name_types(fields)
    assert len(set(names)) == len(names) == len(fields)
    assert all(0 < len(name.encode()) <= MAX_NAME_BYTES for name in names)


def test_a_field_called_unknown_does_not_make_a_type_that_counts_as_none() -> None:
    assert name_types([["unknown"], ["unknown"]]) == ["unknown 2", "unknown 3"]


def test_a_snapshot_comes_back_and_a_damaged_or_foreign_one_is_refused(tmp_path: Path) -> None:
    given, path = snapshot((3, 10, 60), (12, 10, 60)), tmp_path / "s.npz"
    write_snapshot(path, given)
    found = read_snapshot(path)
    assert np.array_equal(found.samples, given.samples) and np.array_equal(found.device, given.device)
    assert np.array_equal(found.paths, given.paths) and found.names == given.names
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ModelRefused, match="not a snapshot for training"):
        read_snapshot(path)
    path.write_bytes(whole)
    path.chmod(0o666)
    with pytest.raises(Exception, match="others can write"):
        read_snapshot(path)


def some() -> DeviceTypes:
    normal = np.array([[0.0, 1.0], [1.0, 1.0]])
    return DeviceTypes("m", ("one", "two"), np.full((2, 64), 0.5), normal, normal, 12.0)


def saved(**changed: np.ndarray) -> bytes:
    with np.load(io.BytesIO(dump_types(some()))) as file:
        arrays = {name: file[name] for name in file.files}
    out = io.BytesIO()
    np.savez(out, **(arrays | changed))
    return out.getvalue()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"no zip",
        dump_types(some())[:-30],
        saved(rates=np.full((2, 63), 0.5)),
        saved(rates=np.full((2, 64), 1.0)),
        saved(rates=np.full((2, 64), np.nan)),
        saved(interval=np.array([[0.0, 0.0], [0.0, 1.0]])),
        saved(size=np.array([[np.inf, 1.0], [0.0, 1.0]])),
        saved(threshold=np.array([0.0])),
        saved(names=np.array([b"one", b"one"])),
        saved(names=np.array([b"x" * 150, b"two"])),
        saved(names=np.array(["one", {"pickled": 1}], object)),
    ],
)
def test_a_file_that_is_no_model_is_refused_with_the_reason(data: bytes) -> None:
    assert load_types(dump_types(some()), "m").names == ("one", "two")
    with pytest.raises(ModelRefused, match="Train it again"):
        load_types(data, "m")


def test_a_new_model_keeps_names_and_types_that_sent_nothing_this_time(tmp_path: Path) -> None:
    a, b, c, d = (3, 10, 60), (12, 10, 60), (48, 900, 60), (192, 10, 60)
    before, _ = trained(tmp_path / "a", snapshot(a, b, c))
    renamed = replace(before, names=("first", "second", "third"))
    card = train(snapshot(b, d, a), lambda version: tmp_path / "b", before=renamed)
    after = load_types((tmp_path / "b" / FILE).read_bytes(), card.version)
    assert len(after.names) == 4 and {"first", "second", "third"} < set(after.names)
    place = {name: before.names[at] for at, name in enumerate(renamed.names)}
    for name in renamed.names:
        old, new = renamed.names.index(name), after.names.index(name)
        assert np.abs(after.rates[new] - before.rates[old]).max() < 0.1, place[name]
    (fresh,) = set(after.names) - set(renamed.names)
    assert fresh == "field192"


def test_old_models_go_the_active_one_stays(tmp_path: Path) -> None:
    store = store_of(tmp_path)
    for at in range(8):
        folder = store.new_folder(KIND, f"m{at}")
        write_model(folder, {FILE: dump_types(some())}, {"kind": KIND, "version": f"m{at}"})
        os.utime(folder, (at, at))
    store.activate(KIND, "m0")
    prune(store, 3)
    assert sorted(model.version for model in store.models(KIND)) == ["m0", "m6", "m7"]
