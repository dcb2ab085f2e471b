"""An owner's death reaches the edge as several SIGTERMs at once: the handler may interrupt itself."""

import signal

import pytest

from klais.config import Settings
from klais.edge import process


class Recorder:
    """Stands in for the edge: its ``stop`` is interrupted by the next signal, as a lock inside it would see it."""

    def __init__(self, settings: Settings) -> None:
        self.depth = self.deepest = self.calls = 0

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
        return 0


def test_a_second_signal_does_not_stop_again_inside_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    monkeypatch.setattr(process, "Edge", Recorder)
    try:
        assert process.main(Settings()) == 0
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
