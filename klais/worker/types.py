"""The device types of a worker: loads the active model, and trains a new one in a separate process.

There are two threads and a child process, and lanes wait for none of them: they continue with their present model, or
with none. The child runs at the lowest priority with bounded memory, is the first process that the kernel kills when
memory runs out, and is killed after ``TRAIN_MAX_S``.
"""

import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from klais.config.fields import environ_without_settings
from klais.config.load import Settings
from klais.core.fingerprint.record import NO_TYPES, KeptSamples
from klais.core.fingerprint.typed import UNKNOWN_NAME, Typed, TypesInUse
from klais.errors import KlaisError, LockHeld
from klais.fingerprint.model import KIND, types_of
from klais.fingerprint.snapshot import MIN_SAMPLES, NO_TYPES_FOUND, Snapshot, snapshot_of, write_snapshot
from klais.models.store import ModelStore
from klais.system.child import OwnedChild, last_line
from klais.system.file_lock import lock_file
from klais.system.private_files import own_folder
from klais.system.processes import prefer_for_oom_kill, python_module
from klais.telemetry import log as logs
from klais.telemetry.snapshots import TypesSnapshot
from klais.worker.lanes import Lanes

log = logs.get("klais.worker.types")

POLL_S = 5.0  # between two checks of which model is active
STOP_S = 2.0
FIRST_S = 300.0  # from the start to the first training, if there is no model
DRIFT_SHARE, DRIFT_S = 0.2, 600.0  # if this share of devices has no type, train again after this time
TRAIN_MAX_S = 900.0  # limit of one training, which is then killed
MIN_DEVICES = 10  # fewest devices for a training


class TypeKeeper:
    """Keeps the model of types; ``trained`` and ``failed`` count trainings.

    Parameters
    ----------
    settings : Settings
        Of the worker.
    in_use : TypesInUse
        Receives the model.
    lanes : Lanes
        Provide the samples.
    max_s : float
        Time limit of a training, in seconds.
    """

    def __init__(self, settings: Settings, in_use: TypesInUse, lanes: Lanes, max_s: float = TRAIN_MAX_S) -> None:
        self._max_s = max_s
        self._settings, self._in_use, self._lanes = settings, in_use, lanes
        self._store = ModelStore.of(settings)
        self._stamp: tuple[str | None, int] | None = None
        self._stop = threading.Event()
        self._threads: list[threading.Thread] = []
        self._child: OwnedChild | None = None
        self._began_s = time.monotonic()
        self._last_s = self._began_s  # start of the newest training
        self._not_before_s = self._began_s + FIRST_S
        self._refused: tuple[str, ...] = ()  # why a model is not in use
        self._not_trained = ""  # why the newest training failed
        self.trained = self.failed = 0

    @property
    def enabled(self) -> bool:
        """Whether fingerprints are on."""
        return self._settings.fingerprint == "on"

    @property
    def training(self) -> int | None:
        """Process id of the running training, or None."""
        child = self._child
        return None if child is None or child.returncode is not None else child.pid

    @property
    def problems(self) -> tuple[str, ...]:
        """Why a better model is not in use, with what to do."""
        if not self._not_trained:
            return self._refused
        text = (
            f"types of devices: the newest training failed ({self._not_trained}); lanes continue with their present "
            "types, and the worker trains again at the next interval. If this persists, see training.log in "
            f"{self._settings.state_dir / KIND}, or turn training off with KLAIS_FINGERPRINT_TRAIN_S=0"
        )
        return (*self._refused, text)

    def start(self) -> None:
        """Start the threads and return immediately."""
        if not self.enabled or self._threads:
            return
        made = [("types", self._watch)]
        if self._settings.fingerprint_train_s > 0:
            made.append(("type training", self._train_when_due))
        self._threads = [threading.Thread(target=run, name=name, daemon=True) for name, run in made]
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Stop the threads and the child process."""
        self._stop.set()
        if self._child is not None:
            self._child.stop(0.0)
        for thread in self._threads:
            thread.join(STOP_S)

    # -- the model

    def refresh(self) -> bool:
        """Load the model if another one was activated; whether it was loaded."""
        stamp = self._store.stamp(KIND)
        if stamp == self._stamp:
            return False
        types, problems = types_of(self._store)
        self._stamp = stamp
        for problem in problems:
            log.warning("types_skipped", why=problem, means="lanes continue with their present types")
        self._refused = tuple(f"types of devices: {problem}" for problem in problems)
        if types is None:
            if not problems and self._in_use.current is NO_TYPES:
                log.info("no_types", means="no device is flagged for its type until a model is trained")
            return False
        self._in_use.set(types)
        log.info("types_loaded", model=types.version, types=len(types.names))
        return True

    def _watch(self) -> None:
        while True:
            try:
                self.refresh()
            except Exception as error:
                if logs.every(60, "klais.worker.types"):
                    log.warning("types_not_read", error=repr(error))
            if self._stop.wait(POLL_S):
                return

    def snapshot(self) -> TypesSnapshot:
        """Statistics for the metrics."""
        at = self._in_use
        return TypesSnapshot(at.sampled, at.compared, at.flags, len(at.current.names), self.trained, self.failed)

    # -- training

    def take(self) -> Snapshot:
        """Take samples of the devices of live lanes."""
        kept: list[KeptSamples] = []
        names: dict[int, str] = {}
        for typed, used, known in self._typed():
            kept += typed.samples(used)
            names |= known
        return snapshot_of(kept, names)

    def counted(self) -> dict[str, int]:
        """Number of devices by type, of live lanes."""
        out: dict[str, int] = {}
        for typed, _, _ in self._typed():
            for name, count in typed.counted().items():
                out[name] = out.get(name, 0) + count
        return out

    def _typed(self) -> Iterator[tuple[Typed, int, dict[int, str]]]:
        for lane in list(self._lanes.by_partition.values()):
            session = lane.session
            if session is not None and isinstance(session.state.detector, Typed):
                yield session.state.detector, session.state.used, session.state.path_names.copy()

    def due(self, counted: dict[str, int], now_s: float) -> bool:
        """Whether to train now, given the number of devices by type."""
        if now_s < self._not_before_s:
            return False
        drifted = counted.get(UNKNOWN_NAME, 0) > DRIFT_SHARE * max(1, sum(counted.values()))
        interval_s = self._settings.fingerprint_train_s
        if drifted:
            interval_s = min(DRIFT_S, interval_s)
        return not self._in_use.current.names or now_s >= self._last_s + interval_s

    def train(self, snapshot: Snapshot) -> bool:
        """Write the snapshot, run the training and wait for its end; whether it produced a model."""
        folder = own_folder(own_folder(self._settings.state_dir) / KIND)
        try:
            held = lock_file(folder / ".lock", "training of types", 0.1)
        except LockHeld:
            return False  # another worker of this host trains
        try:
            path = folder / "snapshot.npz"
            write_snapshot(path, snapshot)
            return self._run(path, folder / "training.log")
        finally:
            os.close(held)

    def _run(self, path: Path, output: Path) -> bool:
        began_s = time.monotonic()
        given = str(path), str(self._store.own), str(self._settings.fingerprint_bytes)
        output.unlink(missing_ok=True)
        child = self._child = OwnedChild(
            python_module("klais.fingerprint.training", *given), output, environ_without_settings()
        )
        prefer_for_oom_kill(child.pid)
        if not child.wait(self._max_s):
            child.stop(0.0)
            why = f"it took longer than {self._max_s:.0f} s and was killed"
        elif child.returncode == 0:
            self.trained, self._not_trained = self.trained + 1, ""
            log.info("types_trained", seconds=round(time.monotonic() - began_s, 1))
            self.refresh()
            return True
        else:
            why = f"it ended with {child.returncode}: {last_line(output)[:500]}"
        if not self._stop.is_set():
            self._failed(why, child.returncode != NO_TYPES_FOUND)
        return False

    def _failed(self, why: str, problem: bool = True) -> None:
        self.failed += 1
        self._not_trained = why if problem else ""
        log.warning("types_not_trained", why=why, means="lanes continue with their present types")

    def _train_when_due(self) -> None:
        while not self._stop.wait(POLL_S):
            try:
                now_s = time.monotonic()
                if not self.due(self.counted(), now_s):
                    continue
                self._not_before_s = now_s + min(FIRST_S, self._settings.fingerprint_train_s)
                snapshot = self.take()
                if snapshot.devices >= MIN_DEVICES:
                    self._last_s = now_s
                    self.train(snapshot)
                else:
                    log.debug("too_few_samples", devices=snapshot.devices, minimum=MIN_SAMPLES)
            except Exception as error:  # of any kind: this thread must survive it
                self._failed(str(error) if isinstance(error, KlaisError | OSError) else repr(error))
