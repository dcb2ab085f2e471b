"""Creates the detectors of a worker's lanes, as configured in the settings."""

import time
from collections.abc import Callable

from klais.config.load import Settings
from klais.core.anomaly.budget import CpuBudget
from klais.core.anomaly.detector import Detector
from klais.core.anomaly.two_tier import TwoTier
from klais.core.anomaly.zscore import ZScore
from klais.core.dam.bucket import TokenBucket
from klais.core.fingerprint.typed import Typed, TypesInUse


def cpu_budget(settings: Settings) -> CpuBudget:
    """The CPU time that the lanes of a worker may spend on scores, with their counters."""
    return CpuBudget(settings.anomaly_cpu_share, time.perf_counter_ns)


def detector_maker(
    settings: Settings, budget: CpuBudget | None = None, types: TypesInUse | None = None
) -> Callable[[], Detector]:
    """Return a factory for the detector of each lane. The detectors of one worker share the CPU budget of scoring and
    the model of types."""
    shared, in_use = budget or cpu_budget(settings), types or TypesInUse()
    memory_bytes = settings.anomaly_bytes // settings.partitions

    def make() -> Detector:
        return Typed(values(), in_use) if settings.fingerprint == "on" else values()

    def values() -> Detector:
        if settings.anomaly_detector == "zscore":
            return ZScore(settings.anomaly_z, settings.anomaly_min_samples, settings.anomaly_window)
        return TwoTier(memory_bytes, settings.anomaly_period_s, shared, settings.anomaly_threshold)

    return make


def profile_allowance(settings: Settings) -> TokenBucket:
    """The allowance of bytes for profiles that a worker saves; its burst is one second's worth."""
    return TokenBucket(settings.anomaly_save_bytes, max(1.0, settings.anomaly_save_bytes))
