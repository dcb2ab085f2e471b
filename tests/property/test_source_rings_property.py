"""The rings of the sources against plain queues: nothing lost, doubled or reordered, also where indices wrap."""

from collections import deque

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from klais.edge.sources.af_xdp.kernels import give_back, take_descriptors
from klais.edge.sources.io_uring.kernels import ENDED, ERROR, provide, take_completions
from klais.edge.sources.ringbuf.kernels import FRAME_OFFSET, RECORD_HEADER_BYTES, publish, take_records

SIZE = 8
# Begin just before the index wraps at its width.
begins = st.sampled_from([0, 5, 2**32 - 3, 2**32 - SIZE, 2**31 - 2])
steps = st.lists(st.tuples(st.integers(0, SIZE), st.integers(1, SIZE)), max_size=40)


@given(begins, steps)
def test_descriptors_come_out_as_the_kernel_put_them_in(begin: int, rounds: list[tuple[int, int]]) -> None:
    producer, consumer = np.array([begin], np.uint32), np.array([begin], np.uint32)
    ring, base = np.zeros((SIZE, 2), np.uint64), 1 << 20
    waiting: deque[tuple[int, int]] = deque()
    number = 0
    for put, room in rounds:
        for _ in range(min(put, SIZE - len(waiting))):  # the kernel never puts in more than there is room for
            number += 1
            slot = int(producer[0]) % SIZE
            ring[slot] = number * 2048 + 256, number % 1500 | 0xABCD << 32  # options in the upper half
            waiting.append((base + number * 2048 + 256, number % 1500))
            producer += np.uint32(1)
        at, size = np.zeros(room, np.int64), np.zeros(room, np.int64)
        n = take_descriptors(producer, consumer, ring, base, at, size)
        assert n == min(room, len(waiting))
        assert list(zip(at[:n].tolist(), size[:n].tolist(), strict=True)) == [waiting.popleft() for _ in range(n)]
        assert (int(producer[0]) - int(consumer[0])) % 2**32 == len(waiting)


@given(begins, steps)
def test_chunks_go_into_the_fill_ring_in_order(begin: int, rounds: list[tuple[int, int]]) -> None:
    producer, ring, base = np.array([begin], np.uint32), np.zeros(SIZE, np.uint64), 4096
    consumed, number = begin, 0
    for count, _ in rounds:
        chunks = [(number + k) * 2048 for k in range(count)]
        number += count
        give_back(producer, ring, base, 2048, np.array([base + chunk + 300 for chunk in chunks], np.int64))
        seen = []
        while consumed != int(producer[0]):  # the kernel takes all
            seen.append(int(ring[consumed % SIZE]))
            consumed = (consumed + 1) % 2**32
        assert seen == chunks


@given(begins, st.lists(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 200)), max_size=SIZE), max_size=20))
def test_completions_give_datagrams_and_notes(begin: int, rounds: list[list[tuple[int, int]]]) -> None:
    stride, offset = 256, 44
    tail, head = np.array([begin], np.uint32), np.array([begin], np.uint32)
    ring, buffers = np.zeros((SIZE, 4), np.uint32), np.zeros((4, stride // 4), np.uint32)
    for completions in rounds:
        want, ended, error = [], 0, 0
        for kind, size in completions:
            slot = int(tail[0]) % SIZE
            if kind == 3:  # the request ends for lack of buffers: no datagram
                ring[slot] = 0, 0, 2**32 - 105, 0
                ended, error = 1, 105
            else:
                more = kind != 2
                ring[slot] = 0, 0, 16 + 28 + size, kind << 16 | 1 | more << 1
                buffers[kind, 2] = size
                want.append(kind)
                ended |= not more
            tail += np.uint32(1)
        columns = [np.zeros(SIZE, np.int64) for _ in range(3)]
        notes = np.zeros(2, np.int64)
        n = take_completions(tail, head, ring, buffers, stride, offset, *columns, notes)
        starts, lengths, taken = (column[:n].tolist() for column in columns)
        assert taken == want
        assert starts == [buffer * stride + offset for buffer in want]
        assert lengths == [int(buffers[buffer, 2]) for buffer in want]
        assert (notes[ENDED], notes[ERROR]) == (ended, error)
        assert head[0] == tail[0]


def test_a_completion_that_names_no_buffer_of_ours_is_passed_over() -> None:
    ring = np.array([[0, 0, 50, 99 << 16 | 3], [0, 0, 50, 1 << 16 | 3]], np.uint32)
    buffers = np.zeros((2, 64), np.uint32)
    buffers[1, 2] = 10**6  # and a length beyond the buffer is cut to it
    columns = [np.zeros(2, np.int64) for _ in range(3)]
    n = take_completions(
        np.array([2], np.uint32), np.array([0], np.uint32), ring, buffers, 256, 44, *columns, np.zeros(2, np.int64)
    )
    assert (n, columns[0][0], columns[1][0]) == (1, 256 + 44, 256 - 44)


@given(st.sampled_from([0, 65_535, 65_530]), st.lists(st.lists(st.integers(0, 7), max_size=SIZE), max_size=20))
def test_buffers_are_provided_in_order_and_the_tail_survives(begin: int, rounds: list[list[int]]) -> None:
    memory = np.zeros(16 * SIZE, np.uint8)
    addresses, words = memory.view(np.uint64).reshape(-1, 2), memory.view(np.uint16).reshape(-1, 8)
    memory.view(np.uint32).reshape(-1, 4)[:, 2] = 100
    tail = memory.view(np.uint16)[7:8]
    tail[0] = begin
    at = begin
    for buffers in rounds:
        provide(tail, addresses, words, 10_000, 100, np.array(buffers, np.int64))
        for buffer in buffers:
            slot = at % SIZE
            assert (addresses[slot, 0], words[slot, 6], words[slot, 4]) == (10_000 + 100 * buffer, buffer, 100)
            at = (at + 1) % 2**16
        assert tail[0] == at


RING = 4096
BUSY, DISCARD = 1 << 31, 1 << 30


class RingModel:
    """A BPF ring buffer with its kernel side in plain Python, begun at any position; the second mapping is kept in
    step.
    """

    def __init__(self, begin: int) -> None:
        self.memory = np.zeros(2 * RING, np.uint8)
        self.producer, self.consumer = np.array([begin], np.uint64), np.array([begin], np.uint64)
        self.position = np.array([begin], np.int64)

    def write(self, at: int, data: bytes) -> None:
        for k, byte in enumerate(data):
            for half in (0, RING):
                self.memory[(at + k) % RING + half] = byte

    def reserve(self, size: int) -> int | None:
        """Where the record's header is, or None when there is no room."""
        at, whole = int(self.producer[0]), (size + RECORD_HEADER_BYTES + 7) // 8 * 8
        if at + whole - int(self.consumer[0]) > RING - 1:
            return None
        self.write(at, (size | BUSY).to_bytes(4, "little"))
        self.producer[0] = at + whole
        return at

    def submit(self, at: int, frame: bytes, time_ns: int, size: int, discard: bool) -> None:
        slot = time_ns.to_bytes(8, "little") + len(frame).to_bytes(4, "little")
        self.write(at + RECORD_HEADER_BYTES, slot)
        self.write(at + RECORD_HEADER_BYTES + FRAME_OFFSET, frame)
        self.write(at, (size | DISCARD * discard).to_bytes(4, "little"))

    def take(self, room: int) -> list[tuple[bytes, int]]:
        starts, lengths, times = (np.zeros(room, np.int64) for _ in range(3))
        views = self.memory, self.memory.view(np.uint32), self.memory.view(np.uint64)
        n = take_records(self.producer, *views, RING, self.position, starts, lengths, times)
        assert (starts[:n] + lengths[:n] <= 2 * RING).all()
        rows = zip(starts[:n], lengths[:n], times[:n].tolist(), strict=True)
        return [(self.memory[s : s + length].tobytes(), when) for s, length, when in rows]


records = st.lists(st.tuples(st.binary(max_size=300), st.booleans(), st.booleans()), max_size=6)


@given(
    st.sampled_from([0, 8, RING - 8, 2**32 - 16, 2**40]), st.lists(st.tuples(records, st.integers(1, 5)), max_size=15)
)
def test_records_come_in_order_and_whole(begin: int, rounds: list[tuple[list, int]]) -> None:
    model, number = RingModel(begin), 0
    waiting: deque[tuple[bytes, int]] = deque()
    late: list[tuple] = []  # reserved, not submitted yet: nothing behind it may come out
    for puts, room in rounds:
        for record in late:
            model.submit(*record)
        late = []
        for frame, discard, later in puts:
            number += 1
            size = FRAME_OFFSET + len(frame)
            at = model.reserve(size)
            if at is None:
                break
            record = (at, frame, number, size, discard)
            if later or late:
                late.append(record)
            else:
                model.submit(*record)
            if not discard:
                waiting.append((frame, number))
        ready = len(waiting) - sum(not record[4] for record in late)
        got = model.take(room)
        assert got == [waiting.popleft() for _ in range(min(room, ready))]
        publish(model.consumer, int(model.position[0]))
    for record in late:
        model.submit(*record)
    rest = []
    while some := model.take(3):
        rest += some
    assert rest == list(waiting)


def test_a_record_that_claims_more_than_its_slot_is_cut_to_it() -> None:
    model = RingModel(0)
    at = model.reserve(FRAME_OFFSET + 10)
    assert at == 0
    model.submit(at, b"x" * 10, 1, FRAME_OFFSET + 10, False)
    model.write(RECORD_HEADER_BYTES + 8, (10**9).to_bytes(4, "little"))
    assert model.take(5) == [(b"x" * 10, 1)]
