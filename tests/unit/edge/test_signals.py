"""Signals of the edge: the first stops, a later one abort, one more ends it; several at once are one."""

import signal

import pytest

from klais.config.load import Settings
from klais.edge import main as process
from klais.edge.signals import EXIT_KILLED, RETRY_S, Signals
from klais.edge.sources.udp.socket import UdpSocket


def record(now: bool = False) -> tuple[Signals, list[str], list[float]]:
    events: list[str] = []
    clock = [100.0]
    signals = Signals(
        lambda: events.append("stop"), lambda: events.append("abort"), now, lambda: clock[0],
        lambda code: events.append(f"leave {code}"),
    )  # fmt: skip
    return signals, events, clock


def test_the_first_stops_the_second_abort_the_third_leaves() -> None:
    signals, events, clock = record()
    for _ in range(3):
        signals.on_stop()
        clock[0] += RETRY_S
    assert events == ["stop", "abort", f"leave {EXIT_KILLED}"]


def test_an_owners_death_sends_several_at_once_and_means_one() -> None:
    signals, events, clock = record()
    for _ in range(20):
        signals.on_stop()
        clock[0] += 0.001
    assert events == ["stop"]


def test_now_abort_at_the_first() -> None:
    signals, events, _ = record(now=True)
    signals.on_stop()
    assert events == ["abort", "stop"]


@pytest.mark.parametrize("stops", [0, 1, 2])
def test_signals_of_before_are_taken_over(stops: int) -> None:
    """Those that arrive while the edge loads its compiled code: also SIGHUP, which ended it."""
    before, _, clock = record()
    before.on_reload()
    before.on_upgrade()
    for _ in range(stops):
        before.on_stop()
        clock[0] += RETRY_S
    signals, events, _ = record()
    signals.take_over(before)
    assert events == [[], ["stop"], ["abort", "stop"]][stops]
    assert signals.consume_reload() and signals.consume_upgrade()
    signals.take_over(Signals())
    assert not signals.consume_reload() and not signals.consume_upgrade()


def test_a_reload_is_only_noted() -> None:
    signals, events, _ = record()
    signals.on_reload()
    assert signals.consume_reload() and not events


class Recorder:
    """Stands in for the edge: its ``stop`` is interrupted by the next signal, as a lock inside it would see it."""

    def __init__(self, settings: Settings, udp: UdpSocket, now: bool, successor: bool, early: None) -> None:
        self.depth = self.deepest = self.calls = 0
        self.signals = Signals(self.stop, lambda: None)

    def stop(self) -> None:
        self.calls += 1
        self.depth += 1
        self.deepest = max(self.deepest, self.depth)
        if self.calls < 3:
            signal.raise_signal(signal.SIGTERM)
        self.depth -= 1

    def run(self) -> int:
        signal.raise_signal(signal.SIGTERM)
        assert (self.calls, self.deepest) == (1, 1)
        signal.raise_signal(signal.SIGHUP)
        assert self.signals.consume_reload()
        return 0


def test_a_second_signal_does_not_stop_again_inside_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR2)
    before = {number: signal.getsignal(number) for number in numbers}
    monkeypatch.setattr(process, "Edge", Recorder)
    udp = UdpSocket.bind("127.0.0.1:0", 65_536)
    try:
        assert process.main(Settings(), udp) == 0
    finally:
        udp.close()
        for number, handler in before.items():
            signal.signal(number, handler)
