"""The order in which frames leave the dam's queue: round robin over devices, first in first out within each device.

Each frame gets a *round* when it joins: the round after its device's newest queued frame, or after the round that is
being served if its device has none. Rounds are served one after the other, each in the order of arrival. This is
start-time fair queueing (Goyal, Vin and Cheng 1996, "Start-time Fair Queueing") with frames of equal cost, because a
frame costs one token whatever its size: a device with one frame waits for at most two frames of every other device,
however many those have queued. The cost of joining and leaving does not depend on the length of the queue.

The order is a function of the queued frames, of the order of arrival, and of which frames belong to the round that is
being served (a device has at most one there). So a checkpoint needs one bit for each queued frame.
"""

import numpy as np
import numpy.typing as npt

from klais.core.devices.siphash import hash_words
from klais.jit.kernel import I32, I64, IDS, U8, U64, int64, kernel, void

ROUND, NEWEST, FREE, UNUSED, FLOWS = 0, 1, 2, 3, 4
"""Indices in ``state`` (int64 [5]): the round being served, the newest round, first free node (-1 = none), first unused
node, devices in the table."""
FEW = 1024  # initial capacity in frames
_ONE = np.uint64(1)


@kernel(void(U64, IDS, I64, I32, I32, I32, I64, IDS, I32, U8, I32), borrows=True)
def join(
    key: npt.NDArray[np.uint64],
    flow: npt.NDArray[np.uint64],
    newest: npt.NDArray[np.int64],
    behind: npt.NDArray[np.int32],
    head: npt.NDArray[np.int32],
    tail: npt.NDArray[np.int32],
    state: npt.NDArray[np.int64],
    ids: npt.NDArray[np.uint64],
    index: npt.NDArray[np.int32],
    now: npt.NDArray[np.uint8],
    out: npt.NDArray[np.int32],
) -> None:
    """Append frames ``index`` (int32 [k]) of a batch with the ids ``ids`` (uint64 [n, 2]), in order.

    Parameters
    ----------
    key : uint64 [2]
        Key of the table's hash; the order does not depend on it.
    flow, newest : uint64 [m, 2], int64 [m]
        Table of devices: id and the round of the newest frame, 0 = empty. m is a power of two, at most half full.
    behind : int32 [c]
        The node after each node, -1 = none. Each queued frame is a node.
    head, tail : int32 [r]
        First and last node of each round modulo r, a power of two; -1 = none.
    state : int64 [5]
    now : uint8 [k or 0]
        1: the frame belongs to the round that is being served (from a checkpoint).
    out : int32 [k], out
        The node of each frame.
    """
    slots = np.uint64(flow.shape[0] - 1)
    rounds = np.int64(head.shape[0] - 1)
    for j in range(index.shape[0]):
        low, high = ids[index[j], 0], ids[index[j], 1]
        at = np.uint64(hash_words(low, high, key)) & slots
        while newest[at] != 0 and (flow[at, 0] != low or flow[at, 1] != high):
            at = (at + _ONE) & slots
        if newest[at] == 0:
            flow[at, 0], flow[at, 1] = low, high
            state[FLOWS] += 1
        turn = state[ROUND]
        if now.shape[0] == 0 or now[j] == 0:
            turn = max(turn, newest[at]) + 1
        newest[at] = turn
        state[NEWEST] = max(state[NEWEST], turn)
        node = state[FREE]
        if node >= 0:
            state[FREE] = behind[node]
        else:
            node = state[UNUSED]
            state[UNUSED] += 1
        behind[node] = -1
        out[j] = node
        place = turn & rounds
        if head[place] < 0:
            head[place] = node
        else:
            behind[tail[place]] = node
        tail[place] = node


@kernel(void(I32, I32, I64, I32), borrows=True)
def leave(
    behind: npt.NDArray[np.int32],
    head: npt.NDArray[np.int32],
    state: npt.NDArray[np.int64],
    out: npt.NDArray[np.int32],
) -> None:
    """Take the next frames: their nodes, as many as ``out`` (int32 [k]) holds. The caller ensures that so many are
    queued. See :func:`join` for the rest."""
    rounds = np.int64(head.shape[0] - 1)
    turn = state[ROUND]
    for j in range(out.shape[0]):
        while head[turn & rounds] < 0:
            turn += 1
        node = head[turn & rounds]
        head[turn & rounds] = behind[node]
        out[j] = node
        behind[node] = state[FREE]
        state[FREE] = node
    state[ROUND] = turn


@kernel(int64(I32, I32, I64, int64, I32), borrows=True)
def list_nodes(
    behind: npt.NDArray[np.int32],
    head: npt.NDArray[np.int32],
    state: npt.NDArray[np.int64],
    last: int,
    out: npt.NDArray[np.int32],
) -> int:
    """List in ``out`` (int32 [depth]) the nodes of the rounds up to ``last`` in leaving order; returns their number."""
    rounds = np.int64(head.shape[0] - 1)
    found = 0
    for turn in range(state[ROUND], min(last, state[NEWEST]) + 1):
        node = np.int64(head[turn & rounds])
        while node >= 0:
            out[found] = node
            found += 1
            node = np.int64(behind[node])
    return found


@kernel(int64(U64, IDS, I64, IDS, I64, int64), borrows=True)
def keep_live(
    key: npt.NDArray[np.uint64],
    flow: npt.NDArray[np.uint64],
    newest: npt.NDArray[np.int64],
    old_flow: npt.NDArray[np.uint64],
    old_newest: npt.NDArray[np.int64],
    turn: int,
) -> int:
    """Copy the devices with frames in a round after ``turn`` into an empty table; returns their number."""
    slots = np.uint64(flow.shape[0] - 1)
    found = 0
    for i in range(old_newest.shape[0]):
        if old_newest[i] <= turn:
            continue
        at = np.uint64(hash_words(old_flow[i, 0], old_flow[i, 1], key)) & slots
        while newest[at] != 0:
            at = (at + _ONE) & slots
        flow[at, 0], flow[at, 1], newest[at] = old_flow[i, 0], old_flow[i, 1], old_newest[i]
        found += 1
    return found


def _power_of_two(minimum: int) -> int:
    return 1 << max(0, minimum - 1).bit_length()


class FairOrder:
    """Nodes, numbers from 0 below ``room``, in the module's order; a node is reused once its frame has left.

    Parameters
    ----------
    key : uint64 [2]
        Secret of this process, so that an attacker cannot choose ids that collide in the table.
    """

    def __init__(self, key: npt.NDArray[np.uint64]) -> None:
        self._key = key
        self.depth = 0
        self._clear()

    def _clear(self) -> None:
        """Start empty, with room for a few frames."""
        self._behind = np.zeros(FEW, np.int32)
        self._head, self._tail = np.full(2 * FEW, -1, np.int32), np.full(2 * FEW, -1, np.int32)
        self._flow, self._newest = np.zeros((2 * FEW, 2), np.uint64), np.zeros(2 * FEW, np.int64)
        self._state = np.array([0, 0, -1, 0, 0], np.int64)

    @property
    def room(self) -> int:
        """Number of nodes."""
        return len(self._behind)

    def push(
        self, ids: npt.NDArray[np.uint64], index: npt.NDArray[np.int32], now: npt.NDArray[np.uint8] | None = None
    ) -> npt.NDArray[np.int32]:
        """Append frames ``index`` (int32 [k]) of a batch; returns the node of each.

        ``now`` (uint8 [k]): which of them belong to the round being served.
        """
        self._make_room(len(index))
        if now is None:
            now = np.zeros(0, np.uint8)
        elif self._state[ROUND] == 0:
            self._state[ROUND] = self._state[NEWEST] = 1  # that round: 0 stands for no round
        out = np.empty(len(index), np.int32)
        lists = (self._behind, self._head, self._tail, self._state)
        join(self._key, self._flow, self._newest, *lists, ids, index, now, out)
        self.depth += len(index)
        return out

    def pop(self, frames: int) -> npt.NDArray[np.int32]:
        """Nodes of the next ``frames`` frames (at most ``depth``)."""
        out = np.empty(frames, np.int32)
        leave(self._behind, self._head, self._state, out)
        self.depth -= frames
        if not self.depth:
            self._clear()
        return out

    def nodes(self, rounds: int | None = None) -> npt.NDArray[np.int32]:
        """Queued nodes in leaving order: all, or those of the next ``rounds`` rounds, starting with the one being
        served."""
        out = np.empty(self.depth, np.int32)
        last = int(self._state[NEWEST]) if rounds is None else int(self._state[ROUND]) + rounds - 1
        return out[: list_nodes(self._behind, self._head, self._state, last, out)]

    def _make_room(self, frames: int) -> None:
        """Make room for ``frames`` more frames, each from another device."""
        need = self.depth + frames
        if need > self.room:
            grown = _power_of_two(need)
            self._behind = np.resize(self._behind, grown)
            turns = np.arange(self._state[ROUND], self._state[NEWEST] + 1)
            heads, tails = self._head[turns % len(self._head)], self._tail[turns % len(self._tail)]
            self._head, self._tail = np.full(2 * grown, -1, np.int32), np.full(2 * grown, -1, np.int32)
            self._head[turns % (2 * grown)], self._tail[turns % (2 * grown)] = heads, tails
        if 2 * (int(self._state[FLOWS]) + frames) > len(self._newest):
            turn = int(self._state[ROUND])
            live = int((self._newest > turn).sum())
            size = max(2 * FEW, _power_of_two(4 * (live + frames)))
            old_flow, old_newest = self._flow, self._newest
            self._flow, self._newest = np.zeros((size, 2), np.uint64), np.zeros(size, np.int64)
            self._state[FLOWS] = keep_live(self._key, self._flow, self._newest, old_flow, old_newest, turn)
