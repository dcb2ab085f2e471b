"""Whoever signs frames, signs the same: the core, the kernels, and the clients in Python and C under examples/."""

import importlib.util
import re
from types import ModuleType
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from klais.core.wire.auth import key_columns
from klais.core.wire.constants import encode_frame
from klais.core.wire.signing import device_key, sign_frame
from tests.support.auth import MASTERS, ROOT, VECTORS, Clients, Judged, vector_payload
from tests.support.examples import examples

KEYS = key_columns(MASTERS)
IDS = st.text(st.characters(exclude_characters="\0", codec="utf-8"), min_size=1, max_size=16).filter(
    lambda text: len(text.encode()) <= 16
)


@pytest.fixture(scope="module")
def clients(tmp_path_factory: pytest.TempPathFactory) -> Clients:
    """The C clients."""
    return Clients(tmp_path_factory.mktemp("clients"))


@pytest.fixture(scope="module")
def client_py() -> ModuleType:
    """``examples/signed_device.py``."""
    spec = importlib.util.spec_from_file_location("signed_device", ROOT / "examples" / "signed_device.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("vector", VECTORS["frames"], ids=lambda v: v["payload_bytes"])
def test_clients_make_the_vectors(clients: Clients, client_py: ModuleType, vector: dict[str, Any]) -> None:
    key, payload, device_id = bytes.fromhex(vector["device_key"]), vector_payload(vector), vector["device_id"]
    sequence, epoch, generation = vector["sequence"], vector["epoch"], vector["generation"]
    plain = encode_frame(device_id, sequence, payload)
    frame = clients.sign(plain, key, epoch, generation)
    assert frame == sign_frame(plain, key, epoch, generation)
    assert frame == client_py.signed(key, device_id, sequence, payload, epoch, generation)
    small = clients.mcu_frame(key, device_id.encode().ljust(16, b"\0"), sequence, payload, epoch, generation)
    assert small == (frame if len(payload) <= 128 else b"")


@settings(max_examples=examples(60), deadline=None)
@given(
    IDS, st.integers(0, 2**32 - 1), st.binary(min_size=2, max_size=300), st.integers(0, 2**32 - 1), st.integers(0, 3)
)
def test_all_agree(
    clients: Clients, client_py: ModuleType, device_id: str, sequence: int, payload: bytes, epoch: int, generation: int
) -> None:
    key = device_key(MASTERS[generation], device_id.encode())
    plain = encode_frame(device_id, sequence, payload)
    frame = sign_frame(plain, key, epoch, generation)
    assert clients.sign(plain, key, epoch, generation) == frame
    assert client_py.signed(key, device_id, sequence, payload, epoch, generation) == frame
    if len(payload) <= 128:
        padded = device_id.encode().ljust(16, b"\0")
        assert clients.mcu_frame(key, padded, sequence, payload, epoch, generation) == frame
    judged = Judged([frame], KEYS)
    assert judged.labels() == ["passed"]
    assert judged.epoch[0] == epoch
    assert judged.sequence[0] == sequence


def test_the_microcontroller_calls_nothing() -> None:
    text = (ROOT / "examples" / "klais_mcu.c").read_text()
    assert re.findall(r"#include .*", text) == ["#include <stdint.h>"]
    assert not re.search(r"\b(malloc|memcpy|float|double)\b", re.sub(r"/\*.*?\*/", "", text, flags=re.DOTALL))
