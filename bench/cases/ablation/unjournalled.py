"""The Faust application of a worker that writes no journal: for the benchmark ``ablation`` only.

Steps go on to the outputs at once. Nothing that such a worker puts out could be put right after a crash.
"""

from klais.worker import session
from klais.worker.outputs import Journal


class NoJournal(Journal):
    """Hands each decided step on, in order, as if its record were acknowledged."""

    async def _send_some(self) -> None:
        while self._steps:
            step = self._steps.popleft()
            if self._then is not None:
                self._then(step)


vars(session)["Journal"] = NoJournal

from agents.app import app  # noqa: E402  (sessions take the class above)

__all__ = ["app"]
