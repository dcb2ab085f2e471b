"""The kernel that finds UDP payloads in packets equals the plain definition, on good packets,
damaged ones and noise.
"""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from bench.harness.packets.packet import payload_of, udp_packet
from klais.edge.sources.af_xdp.packet import find_payloads, packet_sources

bodies = st.integers(0, 3).flatmap(lambda k: st.binary(min_size=8 * k + 6, max_size=8 * k + 6))
extensions = st.lists(
    st.one_of(st.tuples(st.sampled_from([0, 43, 60]), bodies), st.tuples(st.just(44), st.just(bytes(6)))), max_size=9
)
tags = st.lists(st.sampled_from([0x8100, 0x88A8]), max_size=3)
payloads = st.binary(max_size=80)
ports = st.integers(0, 65_535)
v4 = st.builds(
    udp_packet, payloads, st.ip_addresses(v=4).map(str), ports, tags=tags.map(tuple), padding=st.binary(max_size=20),
    options=st.integers(0, 10).flatmap(lambda k: st.binary(min_size=4 * k, max_size=4 * k)),
    fragment=st.sampled_from([0, 0, 0x4000, 0x8000, 0x2000, 1]),
)  # fmt: skip
v6 = st.builds(
    udp_packet, payloads, st.ip_addresses(v=6).map(str), ports, to=st.just("2001:db8::1"), tags=tags.map(tuple),
    padding=st.binary(max_size=20), extensions=extensions.map(tuple),
)  # fmt: skip


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """A good packet with some bytes changed, cut off somewhere."""
    packet = bytearray(draw(st.one_of(v4, v6)))
    for _ in range(draw(st.integers(0, 3))):
        packet[draw(st.integers(0, min(len(packet), 80) - 1))] = draw(st.integers(0, 255))
    return bytes(packet[: draw(st.one_of(st.just(len(packet)), st.integers(0, len(packet))))])


packets = st.lists(st.one_of(v4, v6, damaged(), st.binary(max_size=100)), min_size=1, max_size=12)


def read(batch: list[bytes]) -> tuple[list[bytes], np.ndarray, np.ndarray]:
    """Payloads, IP positions and sources as the kernels find them; packets lie back to back, so reading beyond one
    shows.
    """
    memory = np.frombuffer(b"".join(batch) or b"\0", np.uint8)
    size = np.array([len(packet) for packet in batch], np.int64)
    at = np.cumsum(size) - size
    starts, lengths, ip_at = (np.full(len(batch), -7, np.int64) for _ in range(3))
    find_payloads(memory, at, size, starts, lengths, ip_at)
    sources = np.full((len(batch), 18), 9, np.uint8)
    packet_sources(memory, ip_at, starts, sources)
    return [memory[s : s + n].tobytes() for s, n in zip(starts, lengths, strict=True)], ip_at, sources


@given(packets)
def test_payload_and_source_equal_the_definition(batch: list[bytes]) -> None:
    payloads, ip_at, sources = read(batch)
    for packet, payload, ip, source in zip(batch, payloads, ip_at, sources, strict=True):
        want = payload_of(packet)
        if want is None:
            assert (payload, ip, source.tobytes()) == (packet[:21], -1, bytes(18))
        else:
            assert (payload, source.tobytes()) == want
            assert ip > 0


@given(st.one_of(v4, v6).filter(lambda packet: payload_of(packet) is not None), st.data())
def test_a_whole_datagram_is_found_in_a_split_batch_too(packet: bytes, data: st.DataObject) -> None:
    before = data.draw(st.lists(st.one_of(v4, v6), max_size=5))
    alone, _, _ = read([packet])
    together, _, _ = read([*before, packet])
    assert together[-1] == alone[0]


@given(st.integers(-(2**40), 2**40), st.integers(-(2**40), 2**40))
def test_a_packet_outside_of_the_memory_is_an_empty_frame(at: int, size: int) -> None:
    memory = np.zeros(64, np.uint8)
    columns = [np.array([value], np.int64) for value in (at, size, 5, 5, 5)]
    find_payloads(memory, *columns)
    if at < 0 or size < 0 or at + size > 64:
        assert [int(column[0]) for column in columns[2:]] == [0, 0, -1]
    else:
        assert columns[3][0] == min(size, 21)
