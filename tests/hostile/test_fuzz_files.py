"""Mutated cards of models, claims of edges and records of the audit: a result, or the error that the reader names."""

import json
from pathlib import Path

import pytest

from klais.edge.number import END, _claim
from klais.errors import ModelRefused
from klais.models.card import CARD, read_card, read_file, write_model
from klais.ui.audit import _object
from tests.hostile.cases import CASES, mutated, rng, shown

DEEP = [b"[" * 100_000, b'{"a":' * 100_000, b'{"files":' + b"[" * 50_000]
CLAIMS = [b'{"first":1024,"count":2}', b'{"first":true,"count":1}', b'{"first":1e400,"count":1}', b"[1024,2]", b"null"]
AUDIT = [b'{"scope":"device/a","author":"ops","reason":"why","at":1,"before":{},"after":{"block":true}}', b"[]", b'"a"']


def card_of(folder: Path) -> bytes:
    """A model in ``folder``; its card."""
    write_model(folder, {"trees.npz": b"abc"}, {"kind": "traffic", "version": "1", "test": {"macro_f1": 0.9}})
    return (folder / CARD).read_bytes()


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
